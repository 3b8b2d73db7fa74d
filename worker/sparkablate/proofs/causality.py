"""Proof at load, at the run's own length, that no token is predicted from itself: a model that looks ahead
has no next-token NLL.

Rows that agree before a position and differ at every one from there on must agree in their logits before it
(``science.md`` 2). Not bit for bit: other tokens later in a row change the shapes that experts compute in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparkablate.edits.hooks import editing
from sparkablate.edits.rounding import one_ulp
from sparkablate.errors import SparkablateError
from sparkablate.measure.likelihood import Likelihood
from sparkablate.proofs.entry import middle_of, prove_entered
from sparkablate.proofs.logits import own_pass, prove_same
from sparkablate.proofs.once import depth_fault, watching_layers
from sparkablate.proofs.passes import entry_of, unlike
from sparkablate.wording import setting

#: Of the largest logit: what rounding may differ by in float32, and the least that other tokens must do.
SAME = 1e-4
SEEN = 1e-2
#: Below float32: times what one unit in the last place of the first layer's output does.
ULPS = 10
#: Positions whose logits are in memory at once.
POSITIONS = 256


@torch.inference_mode()
def prove_causal(likelihood: Likelihood, seq_len: int) -> None:
    """Raises ``architecture_unsupported`` for a model whose logits depend on later tokens, on the other rows
    of their batch, or on no token at all; ``nonfinite_logits`` where the unedited model's are not finite.

    The same passes prove, at this length, that the head gives the model's own logits, that depth is no matter
    of tokens, and that the upper half of the layers reads the stream alone."""
    sites = likelihood.sites
    first, cuts = _rows(likelihood, seq_len)
    name = type(likelihood.model).__name__
    with watching_layers(sites) as first_order:
        own, alone, entered = own_pass(likelihood, first, entry_of(middle_of(sites)))
    largest = _largest(likelihood, alone)
    prove_same(likelihood, own, alone)
    del own
    allowed = max(SAME, ULPS * _floor(likelihood, first, alone, largest)) * largest
    for cut, other in cuts.items():
        pair = likelihood.final_hidden(torch.cat([first, other]))
        ahead, seen, coupled = _differences(likelihood, pair, alone, cut)
        if not ahead <= allowed:
            raise _refused(
                f"{name} looks ahead: the logits before position {cut} of {seq_len} change by "
                f"{ahead / largest:.1e} of the largest when only tokens from there on do, so a token would "
                "be predicted from itself and its NLL mean nothing (is_causal, use_bidirectional_attention?)"
            )
        if not seen > SEEN * largest:
            raise _refused(
                f"{name} hardly reads its text: other tokens from position {cut} of {seq_len} on change its "
                f"logits by {seen / largest:.1e} of the largest, too little to tell whether it looks ahead"
            )
        if cut == min(cuts):
            with watching_layers(sites) as other_order:
                other_alone = likelihood.final_hidden(other)
            _prove_depth(likelihood, first_order, other_order)
            coupled = max(coupled, _difference(likelihood, pair[1:], other_alone))
        if not coupled <= allowed:
            raise _refused(
                f"{name} couples the rows of a batch: one row's logits change by {coupled / largest:.1e} of "
                "the largest when another stands beside it, so a block's NLL would depend on its neighbours"
            )
    prove_entered(likelihood, first, cuts[min(cuts)], entered, alone)


def _prove_depth(likelihood: Likelihood, *orders: Sequence[int]) -> None:
    if fault := depth_fault(likelihood.sites.n_layers, orders):
        raise _refused(f"{type(likelihood.model).__name__} cannot be ablated: {fault}")


def _refused(why: str) -> SparkablateError:
    return SparkablateError("architecture_unsupported", why)


def _rows(likelihood: Likelihood, length: int) -> tuple[Tensor, dict[int, Tensor]]:
    """Random ids [1, pos], and by position others that agree with them before it and nowhere from it on."""
    first, different = unlike(likelihood.model, likelihood.sites, length)
    cuts = [cut for cut in (1, length // 2, length // 2 + 1, length - 1) if 0 < cut < length]
    return first, {cut: torch.cat([first[:, :cut], different[:, cut:]], dim=1) for cut in cuts}


def _largest(likelihood: Likelihood, hidden: Tensor) -> float:
    largest = torch.finfo(torch.float32).tiny
    for begin in range(0, hidden.shape[1], POSITIONS):
        logits = likelihood.sites.to_logits(hidden[:, begin : begin + POSITIONS])
        if not bool(torch.isfinite(logits).all()):
            raise nonfinite(likelihood)
        largest = max(largest, float(logits.float().abs().max()))
    return largest


def nonfinite(likelihood: Likelihood) -> SparkablateError:
    dtype = str(next(likelihood.model.parameters()).dtype).removeprefix("torch.")
    others = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(dtype)
    remedy = (
        f"set {setting('model.dtype')} to {others}"
        if others
        else "its weights are damaged, or its configuration is wrong"
    )
    return SparkablateError(
        "nonfinite_logits",
        f"the unedited {type(likelihood.model).__name__} gives NaN or infinite logits in {dtype}: {remedy}",
    )


def _floor(likelihood: Likelihood, ids: Tensor, plain: Tensor, largest: float) -> float:
    """What rounding does to the logits below float32, relative to the largest; 0 in float32."""
    layer = likelihood.sites.layers[0]
    if next(likelihood.model.parameters()).dtype in (torch.float32, torch.float64):
        return 0.0
    with editing([(layer.stream, one_ulp(0))]):
        moved = likelihood.final_hidden(ids)
    return _difference(likelihood, plain, moved) / largest


def _differences(likelihood: Likelihood, pair: Tensor, alone: Tensor, cut: int) -> tuple[float, float, float]:
    """Largest difference of two rows' logits (from hidden states [2, pos, d_model]) before ``cut``, and from
    it on; and of the first row's from those that it has alone."""
    found = [0.0, 0.0]
    coupled = 0.0
    for part, (begin, end) in enumerate(((0, cut), (cut, pair.shape[1]))):
        for chunk in _chunks(begin, end):
            left, right, single = (
                likelihood.sites.to_logits(hidden[:, chunk]).float() for hidden in (pair[:1], pair[1:], alone)
            )
            found[part] = max(found[part], _off(left, right))
            coupled = max(coupled, _off(left, single))
    return found[0], found[1], coupled


def _difference(likelihood: Likelihood, left: Tensor, right: Tensor) -> float:
    """Largest difference of two rows' logits (from hidden states [1, pos, d_model])."""
    to_logits = likelihood.sites.to_logits
    return max(
        _off(to_logits(left[:, chunk]).float(), to_logits(right[:, chunk]).float())
        for chunk in _chunks(0, left.shape[1])
    )


def _chunks(begin: int, end: int) -> Iterator[slice]:
    for at in range(begin, end, POSITIONS):
        yield slice(at, min(at + POSITIONS, end))


def _off(left: Tensor, right: Tensor) -> float:
    """NaN counts as infinite."""
    return float((left - right).abs().max().nan_to_num(nan=torch.inf))
