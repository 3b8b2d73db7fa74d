"""★ Table: metric → chunk of logits, targets, baseline logits → values a position.

What a metric's columns are, and what it needs, is said in src/protocol/catalog.ts. Every column is summed
per block in float64, or made into one value an item of a task, stored, and carried through to the results
under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparkablate import catalog
from sparkablate.catalog import complete
from sparkablate.errors import SparkablateError
from sparkablate.wording import setting


class Rows(NamedTuple):
    """The positions of one chunk.

    Args:
        logits: float32 [positions, vocab].
        targets: int64 [positions].
        baseline: the unedited model's logits, like ``logits``; None where no metric needs them.
        wrong: int64 [positions]: a wrong answer's token where it first differs from the answer, negative
            elsewhere. None where nothing has a wrong answer.
    """

    logits: Tensor
    targets: Tensor
    baseline: Tensor | None = None
    wrong: Tensor | None = None


#: One tensor [positions] a column.
MetricFunction = Callable[[Rows], tuple[Tensor, ...]]


def _nll(rows: Rows) -> tuple[Tensor, ...]:
    return (functional.cross_entropy(rows.logits, rows.targets, reduction="none"),)


def _logit_diff(rows: Rows) -> tuple[Tensor, ...]:
    """logit(target) − logit(wrong answer's token) where the two answers first differ, 0 elsewhere."""
    assert rows.wrong is not None
    return (torch.where(rows.wrong >= 0, _logits_at(rows, rows.targets) - _logits_at(rows, rows.wrong), 0),)


def _accuracy(rows: Rows) -> tuple[Tensor, ...]:
    """Whether the target has the largest logit (ties: the lowest index). Of answers with a wrong one: whether
    its logit is above the wrong one's where they first differ (a tie is none); 1 elsewhere."""
    if rows.wrong is None:
        return ((rows.logits.argmax(dim=-1) == rows.targets).float(),)
    above = _logits_at(rows, rows.targets) > _logits_at(rows, rows.wrong)
    return ((above | (rows.wrong < 0)).float(),)


def _logits_at(rows: Rows, tokens: Tensor) -> Tensor:
    """[positions]; of token 0 where ``tokens`` is negative."""
    return rows.logits.gather(1, tokens.clamp(min=0)[:, None])[:, 0]


def _kl(rows: Rows) -> tuple[Tensor, ...]:
    """KL(baseline ‖ condition): float32 log-softmax, summed over the vocabulary in float64 (MPS has none)."""
    logits, baseline = rows.logits, rows.baseline
    assert baseline is not None
    log_p = functional.log_softmax(baseline, dim=-1)
    log_q = functional.log_softmax(logits, dim=-1)
    terms = functional.kl_div(log_q, log_p, reduction="none", log_target=True)
    return (terms.sum(dim=-1, dtype=torch.float32 if terms.device.type == "mps" else torch.float64),)


def _top1(rows: Rows) -> tuple[Tensor, ...]:
    """Whether the argmax changed (ties: the lowest index), and whether either side has a tie at its top."""
    logits, baseline = rows.logits, rows.baseline
    assert baseline is not None
    changed = logits.argmax(dim=-1) != baseline.argmax(dim=-1)
    tied = _has_tie(logits) | _has_tie(baseline)
    return changed.float(), tied.float()


def _has_tie(logits: Tensor) -> Tensor:
    return (logits == logits.amax(dim=-1, keepdim=True)).sum(dim=-1) > 1


FUNCTIONS: Mapping[str, MetricFunction] = {
    "nll": _nll,
    "kl": _kl,
    "top1": _top1,
    "logit_diff": _logit_diff,
    "accuracy": _accuracy,
}
complete("FUNCTIONS of measure/metrics.py", FUNCTIONS, catalog.METRICS)


@dataclass(frozen=True)
class Metric(catalog.MetricColumns):
    """A metric of the catalogue, and its values a position."""

    compute: MetricFunction


METRICS = {
    name: Metric(row.columns, row.needs, row.item, FUNCTIONS[name]) for name, row in catalog.METRICS.items()
}


def metrics_of(names: list[str]) -> list[Metric]:
    """The rows of ``names``. Raises ``config_invalid`` for a name that is none."""
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise SparkablateError(
            "config_invalid", f"{setting('eval.metrics')}: {unknown[0]!r} is none of {', '.join(METRICS)}"
        )
    return [METRICS[name] for name in names]
