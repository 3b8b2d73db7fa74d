"""Stored sums → the rows of the table `result`, one a condition, the baseline first."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

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


def rows_of(database: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Each as `COLUMNS` has it. Conditions are compared with the baseline on the blocks that both have."""
    tokens = _tokens(database)
    edits, nulls = _conditions(database)
    sums = _sums(database)
    baseline = sums.get(0, {})
    whole = [sums[ordinal] for ordinal in nulls if sums.get(ordinal, {}).keys() == baseline.keys()]
    floor = (
        statistics.floor_rms(_at(baseline, baseline), [_at(one, baseline) for one in whole], tokens)
        if baseline
        else None
    )
    errors, flags, seconds = _attempts(database)
    effects = {
        ordinal: _effect(sums.get(ordinal, {}), baseline, tokens)
        for ordinal in edits
        if ordinal != 0 and ordinal not in errors
    }
    compared = [(ordinal, effect) for ordinal, effect in effects.items() if effect is not None]
    adjusted = statistics.adjust([effect.p for _, effect in compared])
    q = {ordinal: value for (ordinal, _), value in zip(compared, adjusted, strict=True)}
    for ordinal, condition in edits.items():
        mine = sums.get(ordinal, {})
        effect = effects.get(ordinal)
        kind, layer, parts, mode = condition.columns
        row: dict[str, Any] = {
            "condition": condition.id,
            "kind": kind,
            "layer": layer,
            "heads": parts,
            "mode": mode,
            "status": "failed" if ordinal in errors else _status(ordinal, mine, baseline),
            "error": errors.get(ordinal),
            "blocks": 0,
            "seconds": seconds.get(ordinal, 0.0),
        }
        marks = list(flags.get(ordinal, ()))
        common = mine if ordinal == 0 else {block: mine[block] for block in mine if block in baseline}
        if common and ordinal not in errors:
            row["nll"] = statistics.estimate(_at(common, common)).mean / tokens
            row["blocks"] = len(common)
        if ordinal == 0 and common:
            row["delta_nll"] = 0.0
        if effect is not None:
            marks += statistics.flags_of(effect, floor)
            signs = statistics.sign_count(
                statistics.differences(_at(mine, common), _at(baseline, common), tokens)
            )
            low, high = effect.ci95 or (None, None)
            row |= {
                "delta_nll": effect.mean,
                "se": effect.se,
                "ci95_low": low,
                "ci95_high": high,
                "p": effect.p,
                "q": q[ordinal],
                "distinguishable": int(statistics.is_distinguishable(q[ordinal], marks)),
                "worse_blocks": str(signs),
                "sign_p": signs.p,
            }
        row["flags"] = "; ".join(marks)
        yield tuple(row.get(name) for name in COLUMNS)


def _tokens(database: sqlite3.Connection) -> int:
    """What a stored sum is divided by; the values of a task's items are whole."""
    facts = json.loads(database.execute("SELECT facts FROM run").fetchone()[0])
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


def _effect(mine: Sums, baseline: Sums, tokens: int) -> Estimate | None:
    common = {block: None for block in mine if block in baseline}
    if not common or not all(math.isfinite(mine[block]) for block in common):
        return None
    return statistics.paired_effect(_at(mine, common), _at(baseline, common), tokens)


def _status(ordinal: int, mine: Sums, baseline: Sums) -> str:
    if not mine:
        return "pending"
    return "partial" if ordinal != 0 and len(mine) < len(baseline) else "done"


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
