"""★ Table: metric → chunk of logits, targets, baseline logits → values a position.

Adding a metric is one row here. Every column is summed per block in float64, stored, and carried through to
the results under its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from sparkablate.errors import SparkablateError

#: (logits float32 [positions, vocab], targets int64 [positions], baseline's logits like ``logits`` or None)
#: → one tensor [positions] a column.
MetricFunction = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Metric:
    """``columns`` name what ``compute`` returns, in order; ``needs_baseline``: the baseline's logits too."""

    columns: tuple[str, ...]
    needs_baseline: bool
    compute: MetricFunction


def _nll(logits: Tensor, targets: Tensor, baseline: Tensor | None) -> tuple[Tensor, ...]:
    return (functional.cross_entropy(logits, targets, reduction="none"),)


def _kl(logits: Tensor, targets: Tensor, baseline: Tensor | None) -> tuple[Tensor, ...]:
    """KL(baseline ‖ condition): float32 log-softmax, summed over the vocabulary in float64 (MPS has none)."""
    assert baseline is not None
    log_p = functional.log_softmax(baseline, dim=-1)
    log_q = functional.log_softmax(logits, dim=-1)
    terms = functional.kl_div(log_q, log_p, reduction="none", log_target=True)
    return (terms.sum(dim=-1, dtype=torch.float32 if terms.device.type == "mps" else torch.float64),)


def _top1(logits: Tensor, targets: Tensor, baseline: Tensor | None) -> tuple[Tensor, ...]:
    """Whether the argmax changed (ties: the lowest index), and whether either side has a tie at its top."""
    assert baseline is not None
    changed = logits.argmax(dim=-1) != baseline.argmax(dim=-1)
    tied = _has_tie(logits) | _has_tie(baseline)
    return changed.float(), tied.float()


def _has_tie(logits: Tensor) -> Tensor:
    return (logits == logits.amax(dim=-1, keepdim=True)).sum(dim=-1) > 1


METRICS: dict[str, Metric] = {
    "nll": Metric(columns=("nll",), needs_baseline=False, compute=_nll),
    "kl": Metric(columns=("kl",), needs_baseline=True, compute=_kl),
    "top1": Metric(columns=("top1", "top1_ties"), needs_baseline=True, compute=_top1),
}


def metrics_of(names: list[str]) -> list[Metric]:
    """The rows of ``names``. Raises ``config_invalid`` for a name that is none."""
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise SparkablateError(
            "config_invalid", f"eval.metrics: {unknown[0]!r} is none of {', '.join(METRICS)}"
        )
    return [METRICS[name] for name in names]
