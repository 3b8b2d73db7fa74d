"""Body, tail and head, one after the other, give the model's own logits bit for bit: scale, cap, cast."""

from __future__ import annotations

import torch
from torch import Tensor

from sparkablate.anatomy.sites import Tap
from sparkablate.edits.hooks import Hook, recording
from sparkablate.errors import SparkablateError
from sparkablate.measure.likelihood import Likelihood
from sparkablate.proofs.passes import Subject

#: Rows of logits that are compared at once.
ROWS = 256


def logits_fault(subject: Subject) -> str | None:
    """What is wrong on the short text, with the stack called as a measurement calls it."""
    last = subject.sites.layers[-1]
    try:
        fault = _tail_fault(subject, subject.plain.recorded[last.path, "output"], subject.plain.hidden)
        if fault is None:
            Likelihood(subject.model, subject.sites).prove_head(subject.ids)
    except SparkablateError as error:
        return error.message.removeprefix(f"{type(subject.model).__name__}: ")
    except (RuntimeError, TypeError) as error:  # shapes or dtypes that do not fit
        return f"its row's tail and head do not take what the layers give: {error}"
    return fault


def _tail_fault(subject: Subject, stream: Tensor, hidden: Tensor) -> str | None:
    finished = subject.sites.finish(stream)
    if finished.shape == hidden.shape and torch.equal(finished, hidden.to(finished.device)):
        return None
    names = ", ".join(type(module).__name__ for module in subject.sites.tail) or "nothing"
    return f"the tail that its row names ({names}) does not make the final hidden states of the last stream"


def own_pass(likelihood: Likelihood, ids: Tensor, watch: Tap) -> tuple[Tensor, Tensor, Tensor]:
    """The model's own pass over ids [1, pos]: its logits [1, pos, vocab], its final hidden states
    [1, pos, d_model], and what stood at a tap."""
    hidden: list[Tensor] = []
    watched: list[Tensor] = []
    hook = Hook(likelihood.sites.stack, lambda module, args, output: hidden.append(output[0].clone()))
    try:
        with recording([watch], lambda tap, tensor: watched.append(tensor.clone())):
            logits = likelihood.model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    return logits, hidden[-1], watched[-1]


def prove_same(likelihood: Likelihood, own: Tensor, hidden: Tensor) -> None:
    """Raises ``architecture_unsupported`` where the head does not make the model's own logits
    [1, pos, vocab] of its final hidden states."""
    to_logits = likelihood.sites.to_logits
    chunks = zip(hidden.split(ROWS, dim=1), own.split(ROWS, dim=1), strict=True)
    # a chunk's GEMM may be another kernel's than the whole's: then the whole decides
    if all(_same(to_logits(part), logits) for part, logits in chunks) or _same(to_logits(hidden), own):
        return
    raise SparkablateError(
        "architecture_unsupported",
        f"{type(likelihood.model).__name__}: its row's head and logits columns do not give the logits of the "
        f"model's own forward pass over {own.shape[1]} tokens",
    )


def _same(left: Tensor, right: Tensor) -> bool:
    """As the loss sees them, in float32: some models return them so, whatever their dtype."""
    return torch.equal(left.float(), right.to(left.device).float())
