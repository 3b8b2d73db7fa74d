"""How much of a contrast hangs on a direction: measured on held-out prompts, without generation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from sparkablate.anatomy.sites import Tap
from sparkablate.directions.prompts import Batch
from sparkablate.edits.hooks import recording
from sparkablate.errors import SparkablateError
from sparkablate.loading.numerics import device_of
from sparkablate.manager import AblationManager
from sparkablate.specs import DirectionSpec

#: Share of the readout that must be left once the candidate is taken out of it; less is rounding.
_LEAST_READOUT = 1e-3


@dataclass(frozen=True)
class Answers:
    """Token ids that answer a prompt one way (`positive`) and the other (`negative`)."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean over held-out prompts and its standard error."""

    value: float
    se: float


@dataclass(frozen=True)
class Scores:
    """`contrast`: of the unedited model. `lowered`: by how much projecting the direction out of every write
    lowers it. `raised`: by how much adding norm × direction at its layer moves the negative prompts towards
    the positive ones. All in the contrast's unit; None where there is nothing to read the contrast from.
    `kl`: nats that projecting out costs at the negative prompts' next token.
    """

    contrast: Estimate | None
    lowered: Estimate | None
    raised: Estimate | None
    kl: Estimate


@dataclass(frozen=True)
class _Seen:
    """At each prompt's last token: the last layer's stream, float64 [prompts, d_model], and the next token's
    log-probabilities, float32 [prompts, vocab]."""

    stream: Tensor
    log_probabilities: Tensor


class Scorer:
    """Scores directions on the same held-out prompts.

    The contrast is, with answer tokens, the difference of the two sets' log-odds, in nats. Without, it is the
    separation of the two sets in the stream where it leaves the last layer, along the difference of means
    there (`readout`, from the other prompts), *with the direction itself taken out of it*: what later layers
    made of the direction, since that the direction is gone or there after an edit says nothing. Its unit is
    the sets' pooled standard deviation. A candidate in the last layer has nothing later: None.
    """

    def __init__(
        self,
        manager: AblationManager,
        positive: Sequence[Batch],
        negative: Sequence[Batch],
        readout: Tensor,
        answers: Answers | None,
    ) -> None:
        self.manager = manager
        self.positive, self.negative = positive, negative
        self.readout = readout  # [d_model], float64
        self.answers = answers
        self.base = self._see(positive, None), self._see(negative, None)

    def score(self, vector: Tensor, norm: float, layer: int) -> Scores:
        """vector: float32 [d_model] of unit length."""
        out = DirectionSpec("project_out", vector)
        add = DirectionSpec("add", vector, layers=(layer,), norm=norm)
        edited = self._see(self.positive, out), self._see(self.negative, out)
        added = self._see(self.negative, add)
        before = self.base[1].log_probabilities
        kl = (before.exp() * (before - edited[1].log_probabilities)).double().sum(dim=-1)
        read = self._reader(vector)
        if read is None:
            return Scores(None, None, None, _estimate(kl))
        p, n = read(self.base[0]), read(self.base[1])  # [prompts]
        return Scores(
            _difference(p, n),
            _difference(p - read(edited[0]), n - read(edited[1])),
            _estimate(read(added) - n),
            _estimate(kl),
        )

    def _reader(self, vector: Tensor) -> Callable[[_Seen], Tensor] | None:
        """A prompt's value on the contrast's scale, as a function of what was seen."""
        if self.answers is not None:
            yes, no = list(self.answers.positive), list(self.answers.negative)
            return lambda seen: (
                seen.log_probabilities[:, yes].logsumexp(dim=-1)
                - seen.log_probabilities[:, no].logsumexp(dim=-1)
            ).double()
        own = vector.double()
        along = self.readout - (self.readout @ own) * own
        if along.norm() <= _LEAST_READOUT * self.readout.norm():
            return None
        along = along / along.norm()
        p, n = (seen.stream @ along for seen in self.base)
        squares = ((p - p.mean()) ** 2).sum() + ((n - n.mean()) ** 2).sum()
        deviation = (squares / (len(p) + len(n) - 2)).sqrt()
        return None if deviation == 0 else lambda seen: seen.stream @ along / deviation

    @torch.inference_mode()
    def _see(self, batches: Sequence[Batch], spec: DirectionSpec | None) -> _Seen:
        sites, device = self.manager.sites, device_of(self.manager.model)
        count = sum(len(batch.indices) for batch in batches)
        streams = torch.empty(count, sites.d_model, dtype=torch.float64)
        logs = torch.empty(count, sites.vocab_size)
        for batch in batches:

            def keep(tap: Tap, stream: Tensor, batch: Batch = batch) -> None:
                streams[batch.indices] = batch.at_end(stream).cpu().double()

            edit = self.manager.applied(spec) if spec is not None else nullcontext()
            # The edit first, so that what it leaves in the last layer's stream is seen.
            with edit, recording([sites.layers[-1].stream], keep):
                hidden = sites.stack(input_ids=batch.ids.to(device), use_cache=False)[0]
            logits = sites.to_logits(batch.at_end(hidden)[:, None])[:, 0].float()
            logs[batch.indices] = logits.log_softmax(dim=-1).cpu()
        if not (bool(torch.isfinite(streams).all()) and bool(torch.isfinite(logs).all())):
            raise SparkablateError("nonfinite_logits", "a direction gives NaN or infinite values")
        return _Seen(streams, logs)


def _estimate(values: Tensor) -> Estimate:
    return Estimate(values.mean().item(), math.sqrt(values.var().item() / len(values)))


def _difference(p: Tensor, n: Tensor) -> Estimate:
    se = math.sqrt(p.var().item() / len(p) + n.var().item() / len(n))
    return Estimate((p.mean() - n.mean()).item(), se)
