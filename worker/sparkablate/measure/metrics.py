"""★ Table: metric → chunk of logits, targets, baseline logits → values a position.

What a metric's columns are, and what it needs, is said in src/protocol/catalog.ts. Every column is summed
per block in float64, or made into one value an item of a task, stored, and carried through to the results
under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sparkablate import catalog
from sparkablate.arguments import as_choice, described, listed
from sparkablate.catalog import complete, own_name
from sparkablate.errors import SparkablateError, first_line
from sparkablate.wording import setting


class Rows(NamedTuple):
    """The positions of one chunk.

    Args:
        logits: float32 [positions, vocab].
        targets: int64 [positions].
        baseline: the baseline's logits, like ``logits``; None where no metric needs them.
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


#: Behind the catalogue's, those that others have registered.
METRICS = {
    name: Metric(row.columns, row.needs, row.item, FUNCTIONS[name]) for name, row in catalog.METRICS.items()
}


def register_metric(
    name: str,
    function: MetricFunction,
    *,
    columns: Sequence[str] = (),
    needs: Literal["baseline", "wrong"] | None = None,
    item: Literal["mean", "sum", "every"] = "mean",
    replace: bool = False,
) -> None:
    """Adds a metric of your own to this process: `sweep(…, metrics=[name])` then measures it.

    Configs and `sparkablate run` do not know it, and say so; `sparkablate report` shows what was measured.

    Args:
        name: your package's name, a dot, and the metric's, e.g. "mypackage.entropy".
        function: `Rows` of a chunk (logits float32 [positions, vocab], targets int64 [positions]) → a tensor
            [positions], or a tuple of one for each column.
        columns: what each of several values is called, behind the name and a dot; without, there is one
            value, called as the metric is.
        needs: "baseline" (the baseline's logits, `rows.baseline`) or "wrong" (of a task's wrong answers
            a token, `rows.wrong`).
        item: how the values at an item's answer's tokens become the item's.
        replace: replace a metric of this name.

    Raises SparkablateError: "config_invalid" for another name or column, "usage" for a name that is taken.
    """
    try:
        own_name("metric", name)
    except ValueError as error:
        raise SparkablateError("config_invalid", str(error)) from error
    if not callable(function):
        raise SparkablateError("usage", f"function must be a function of Rows, not {described(function)}")
    if needs is not None:
        as_choice("needs", needs, ("baseline", "wrong"))
    as_choice("item", item, ("mean", "sum", "every"))
    given = list(listed("columns", columns))
    if len(set(map(str, given))) < len(given) or not all(
        isinstance(one, str) and one.isidentifier() for one in given
    ):
        raise SparkablateError("config_invalid", f"columns must be different names, not {described(given)}")
    if name in METRICS and replace is not True:
        raise SparkablateError(
            "usage", f"metric {name!r} is registered already; pass replace=True to replace it"
        )
    named = tuple(f"{name}.{column}" for column in given) or (name,)
    METRICS[name] = Metric(named, needs, item, partial(_own_values, name, function, len(named)))


def _own_values(name: str, function: MetricFunction, count: int, rows: Rows) -> tuple[Tensor, ...]:
    """What somebody's function gives. Raises "hook_failed" unless it is one tensor [positions] a column."""
    try:
        values = function(rows)
    except SparkablateError:
        raise
    except Exception as error:  # whatever it does
        raise SparkablateError(
            "hook_failed", f"metric {name}: {type(error).__name__}: {first_line(error)}", detail=repr(error)
        ) from error
    found = values if isinstance(values, tuple) else (values,)
    fits = all(isinstance(one, Tensor) and one.shape == rows.targets.shape for one in found)
    if len(found) != count or not fits:
        raise SparkablateError(
            "hook_failed",
            f"metric {name} must give {count} tensor{'s' * (count > 1)} of shape {list(rows.targets.shape)}, "
            f"not {', '.join(map(described, found))}",
        )
    return found


def metrics_of(names: list[str]) -> list[Metric]:
    """The rows of ``names``. Raises ``config_invalid`` for a name that is none."""
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise SparkablateError(
            "config_invalid", f"{setting('eval.metrics')}: {unknown[0]!r} is none of {', '.join(METRICS)}"
        )
    return [METRICS[name] for name in names]
