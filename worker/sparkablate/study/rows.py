"""Stored sums → the rows of the table `result`, one a condition, the baseline first."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sparkablate.specs import condition_id, from_wire
from sparkablate.study import statistics
from sparkablate.study.planning import Condition, condition_of
from sparkablate.study.statistics import Estimate

#: Column → SQL type. `sparkablate report` writes the table anew, with all columns.
COLUMNS: Mapping[str, str] = {
    "condition": "TEXT NOT NULL UNIQUE",
    "kind": "TEXT",
    "layer": "INTEGER",
    "heads": "TEXT",
    "mode": "TEXT",
    "status": "TEXT",
    "nll": "REAL",
    "delta_nll": "REAL",
    "se": "REAL",
    "ci95_low": "REAL",
    "ci95_high": "REAL",
    "p": "REAL",
    "q": "REAL",
    "distinguishable": "INTEGER",
    "worse_blocks": "TEXT",
    "sign_p": "REAL",
    "flags": "TEXT",
    "blocks": "INTEGER",
    "seconds": "REAL",
    "error": "TEXT",
}

#: Block → sum.
Sums = dict[int, float]


@dataclass(frozen=True)
class Compared:
    """A condition against the baseline, on the blocks that both have; ``blocks`` 0: there are none."""

    blocks: int
    nll: float | None
    effect: Estimate | None = None
    signs: statistics.SignCount | None = None
    q: float | None = None
    flags: tuple[str, ...] = ()
    #: A sum is NaN or infinite: nothing is said of it.
    broken: bool = False

    @property
    def distinguishable(self) -> bool | None:
        return None if self.effect is None else statistics.is_distinguishable(self.q, self.flags)


def compared(
    baseline: Sums, conditions: Mapping[int, Sums], nulls: Iterable[Sums], tokens: int
) -> dict[int, Compared]:
    """``conditions``: those that did not fail, by ordinal."""
    whole = [_at(sums, baseline) for sums in nulls if sums.keys() == baseline.keys()]
    floor = statistics.floor_rms(_at(baseline, baseline), whole, tokens) if baseline else None
    found = {ordinal: _compared(sums, baseline, floor, tokens) for ordinal, sums in conditions.items()}
    tested = {ordinal: one for ordinal, one in found.items() if one.effect is not None}
    adjusted = statistics.adjust([None if one.effect is None else one.effect.p for one in tested.values()])
    for (ordinal, one), q in zip(tested.items(), adjusted, strict=True):
        found[ordinal] = replace(one, q=q)
    return found


def _compared(mine: Sums, baseline: Sums, floor: float | None, tokens: int) -> Compared:
    common = sorted(block for block in mine if block in baseline)
    if not common:
        return Compared(0, None)
    sums, reference = [mine[block] for block in common], [baseline[block] for block in common]
    if not all(map(math.isfinite, sums)):
        return Compared(0, None, broken=True)
    effect = statistics.paired_effect(sums, reference, tokens)
    signs = statistics.sign_count(statistics.differences(sums, reference, tokens))
    nll = statistics.estimate(sums).mean / tokens
    return Compared(len(common), nll, effect, signs, flags=tuple(statistics.flags_of(effect, floor)))


def columns_of(database: sqlite3.Connection) -> dict[str, str]:
    """Those of this run."""
    given = {} if _given(database) is None else {"given": "TEXT"}
    return {**{name: kind for name, kind in COLUMNS.items() if name != "error"}, **given, "error": "TEXT"}


def rows_of(database: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Each as `columns_of` has it."""
    given, columns = _given(database), columns_of(database)
    tokens = _tokens(database)
    edits, nulls = _conditions(database)
    sums = _sums(database)
    errors, flags, seconds = _attempts(database)
    baseline = sums.get(0, {})
    measured = {ordinal: sums.get(ordinal, {}) for ordinal in edits if ordinal != 0 and ordinal not in errors}
    found = compared(baseline, measured, [sums.get(ordinal, {}) for ordinal in nulls], tokens)
    for ordinal, condition in edits.items():
        kind, layer, parts, mode = condition.columns
        one = found.get(ordinal, Compared(0, None))
        row: dict[str, Any] = {
            "condition": condition.id,
            "kind": kind,
            "layer": layer,
            "heads": parts,
            "mode": mode,
            "given": given,
            "status": _status(one, baseline),
            "nll": one.nll,
            "blocks": one.blocks,
            "flags": "; ".join([*flags.get(ordinal, ()), *one.flags]),
            "seconds": seconds.get(ordinal, 0.0),
            **_effect_columns(one),
        }
        if ordinal == 0 and baseline:
            nll = statistics.estimate(_at(baseline, baseline)).mean / tokens
            row |= {"nll": nll, "delta_nll": 0.0, "blocks": len(baseline), "status": "done"}
        if ordinal in errors:
            row |= {"status": "failed", "error": errors[ordinal]}
        elif one.broken:
            row["error"] = "nonfinite_logits"
        yield tuple(row.get(name) for name in columns)


def _effect_columns(one: Compared) -> dict[str, Any]:
    if one.effect is None or one.signs is None:
        return {}
    low, high = one.effect.ci95 or (None, None)
    return {
        "delta_nll": one.effect.mean,
        "se": one.effect.se,
        "ci95_low": low,
        "ci95_high": high,
        "p": one.effect.p,
        "q": one.q,
        "distinguishable": one.distinguishable,
        "worse_blocks": str(one.signs),
        "sign_p": one.signs.p,
    }


def _status(one: Compared, baseline: Sums) -> str:
    if one.broken:
        return "failed"
    if one.blocks == 0:
        return "pending"
    return "partial" if one.blocks < len(baseline) else "done"


def _facts(database: sqlite3.Connection) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(database.execute("SELECT facts FROM run").fetchone()[0])
    return facts


def _given(database: sqlite3.Connection) -> str | None:
    """Id of what the run is measured on top of."""
    given = _facts(database).get("given")
    return condition_id(map(from_wire, given)) if given else None


def _tokens(database: sqlite3.Connection) -> int:
    """What a stored sum is divided by; the values of a task's items are whole."""
    facts = _facts(database)
    return 1 if facts.get("task") else int(facts["seq_len"]) - 1


def _conditions(database: sqlite3.Connection) -> tuple[dict[int, Condition], list[int]]:
    """The baseline and the edits by ordinal; the null conditions."""
    edits: dict[int, Condition] = {}
    nulls: list[int] = []
    for ordinal, name, interventions, nudge in database.execute(
        "SELECT ordinal, id, interventions, nudge FROM condition ORDER BY ordinal"
    ):
        if nudge is not None:
            nulls.append(ordinal)
        else:
            edits[ordinal] = condition_of(name, json.loads(interventions))
    return edits, nulls


def _sums(database: sqlite3.Connection) -> dict[int, Sums]:
    found: dict[int, Sums] = {}
    for condition, block, value in database.execute(
        "SELECT condition, block, sum FROM measurement WHERE metric = 'nll' ORDER BY condition, block"
    ):
        found.setdefault(condition, {})[block] = value
    return found


def _at(sums: Sums, blocks: Mapping[int, Any]) -> list[float]:
    return [sums[block] for block in sorted(blocks)]


def _attempts(database: sqlite3.Connection) -> tuple[dict[int, str], dict[int, list[str]], dict[int, float]]:
    """Of each condition the error of its last attempt, its flags, the time it took."""
    errors: dict[int, str] = {}
    flags: dict[int, set[str]] = {}
    seconds: dict[int, float] = {}
    for condition, took, marked, code in database.execute(
        "SELECT condition, seconds, flags, code FROM attempt ORDER BY rowid"
    ):
        seconds[condition] = seconds.get(condition, 0.0) + took
        flags.setdefault(condition, set()).update(json.loads(marked))
        if code is None:
            errors.pop(condition, None)
        else:
            errors[condition] = code
    return errors, {condition: sorted(found) for condition, found in flags.items()}, seconds
