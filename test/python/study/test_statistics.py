"""Python's columns against the controller's, on one corpus, and against scipy."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from sparkablate.study import statistics, student
from sparkablate.study.rows import Compared, compared

scipy_stats = pytest.importorskip("scipy.stats")
CORPUS = json.loads((Path(__file__).parents[2] / "contract" / "statistics.json").read_text())


def number(text: str | None) -> float | None:
    if text is None:
        return None
    return math.nan if text == "nan" else float(struct.unpack(">d", bytes.fromhex(text))[0])


def sums_of(row: list[str | None]) -> dict[int, float]:
    values = map(number, row)
    return {block: value for block, value in enumerate(values) if value is not None}


def near(found: float | None, wanted: float | None, relative: float) -> bool:
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= relative * abs(wanted)


def check(row: dict[str, Any], one: Compared) -> None:
    """Sums of products are equal to the bit; what a distribution is asked for is near."""
    assert one.nll == number(row["nll"])
    if row["delta_nll"] is None:
        assert one.effect is None
        return
    assert one.effect is not None
    assert one.effect.mean == number(row["delta_nll"])
    assert one.effect.se == number(row["se"])
    assert (one.effect.ci95 is None) == (row["ci95"] is None)
    for end, wanted in zip(one.effect.ci95 or (), row["ci95"] or (), strict=True):
        size = max(abs(number(row["delta_nll"]) or 0), number(row["se"]) or 0)
        assert abs(end - (number(wanted) or 0)) <= 1e-12 * size
    assert near(one.effect.p, number(row["p"]), 1e-9)
    assert near(one.q, number(row["q"]), 1e-9)
    assert one.distinguishable == row["distinguishable"]
    assert str(one.signs) == row["worse_blocks"]
    assert one.signs is not None
    assert near(one.signs.p, number(row["sign_p"]), 1e-12)
    assert list(one.flags) == row["flags"]


@pytest.mark.parametrize("table", CORPUS["tables"], ids=lambda table: table["name"])
def test_the_controllers_columns(table: dict[str, Any]) -> None:
    baseline, *conditions = map(sums_of, table["sums"])
    found = compared(baseline, dict(enumerate(conditions, 1)), [], table["tokens"])
    for row, one in zip(table["rows"][1:], found.values(), strict=True):
        assert (row["status"] == "failed") == one.broken
        check(row, one)


def test_a_hundred_thousand_conditions() -> None:
    blocks = range(8)
    baseline = {block: 60 + (block * 104729 % 1000) / 1000 for block in blocks}
    conditions = {
        index: {
            block: 60
            + (block * 104729 % 1000) / 1000
            + ((index * 7919 + block * 31337 + index * block * 17) % 1009 - 450 - index % 100) / 1009
            for block in blocks
        }
        for index in range(100_000)
    }
    found = compared(baseline, conditions, [], 15)
    assert CORPUS["large"]
    for index, delta, se, p, q, marked in CORPUS["large"]:
        one = found[index]
        assert one.effect is not None
        assert (one.effect.mean, one.effect.se) == (number(delta), number(se))
        assert near(one.effect.p, number(p), 1e-9)
        assert near(one.q, number(q), 1e-9)
        assert one.distinguishable == marked


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 15, 31, 63, 119, 127, 1000, 100_000])
def test_students_t(freedom: int) -> None:
    for t in (1e-3, 0.1, 0.5, 1, 1.5, 2, 3, 5, 10, 30, 100, 1e4):
        wanted = scipy_stats.t.sf(t, freedom)
        if wanted > 1e-300:
            assert student.tail(t, freedom) == pytest.approx(wanted, rel=1e-9)
    for probability in (0.8, 0.9, 0.975, 0.995):
        wanted = scipy_stats.t.ppf(probability, freedom)
        assert student.quantile(probability, freedom) == pytest.approx(wanted, rel=1e-12)


def test_paired_t_against_scipy() -> None:
    for table in CORPUS["tables"]:
        baseline, *conditions = map(sums_of, table["sums"])
        for sums in conditions:
            common = sorted(sums.keys() & baseline.keys())
            values = statistics.differences(
                [sums[block] for block in common], [baseline[block] for block in common], table["tokens"]
            )
            if len(values) < 2 or not all(map(math.isfinite, values)):
                continue
            mine = statistics.estimate(values)
            if mine.se == 0 or mine.se is None:
                continue
            test = scipy_stats.ttest_1samp(values, 0)
            low, high = test.confidence_interval(0.95)
            assert mine.ci95 == pytest.approx((low, high), rel=1e-8)
            if abs(mine.skewness or 0) <= statistics.MAX_SKEWNESS:
                assert mine.p == pytest.approx(test.pvalue, rel=1e-6)
            else:
                assert (mine.p or 0) >= test.pvalue * (1 - 1e-6)
            signs = statistics.sign_count(values)
            if signs.changed:
                wanted = scipy_stats.binomtest(signs.worse, signs.changed).pvalue
                assert signs.p == pytest.approx(wanted, rel=1e-9)


def test_q_values_against_scipy() -> None:
    for table in CORPUS["tables"]:
        baseline, *conditions = map(sums_of, table["sums"])
        found = compared(baseline, dict(enumerate(conditions, 1)), [], table["tokens"]).values()
        tested = [one for one in found if one.effect is not None]
        if tested:
            p_values = [1.0 if one.effect is None or one.effect.p is None else one.effect.p for one in tested]
            wanted = scipy_stats.false_discovery_control(p_values)
            mine = [w if one.q is None else one.q for one, w in zip(tested, wanted, strict=True)]
            assert mine == pytest.approx(list(wanted), rel=1e-12)
