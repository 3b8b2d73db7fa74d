"""What a sweep's sums say: the columns of src/statistics/effects.ts and src/results/tabulate.ts, by the same
arithmetic in the same order, so that equal sums give equal bits wherever no distribution is asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparkablate.study import student

#: Largest |skewness| at which a t statistic is taken at its word.
MAX_SKEWNESS = 1.0
#: Fewer blocks than this: "few blocks".
FEW_BLOCKS = 16
#: Multiple of the numeric floor's rms below which an effect may be rounding.
FLOOR_MULTIPLE = 3.0
#: False discovery rate of the mark.
FALSE_DISCOVERY_RATE = 0.05
_EPSILON = 2.0**-52

ONE_BLOCK = "one block, no interval"
FEW = "few blocks"
NO_SPREAD = "identical in every block, no interval"
BELOW_FLOOR = "below the numeric floor"
#: Flags with any of which an effect is never marked.
DOUBTS = frozenset({ONE_BLOCK, FEW, NO_SPREAD, BELOW_FLOOR})
#: A hint: such an effect may be marked.
SKEWED = "skewed: rests on few blocks"


@dataclass(frozen=True)
class Estimate:
    """A mean of one value a block, with its paired t statistics; None: these blocks cannot tell."""

    n: int
    mean: float
    se: float | None
    ci95: tuple[float, float] | None
    p: float | None
    #: Adjusted Fisher–Pearson G₁.
    skewness: float | None


@dataclass(frozen=True)
class SignCount:
    """In how many of the ``changed`` blocks the loss rose, and the two-sided exact sign test of that."""

    worse: int
    changed: int
    p: float

    def __str__(self) -> str:
        return f"{self.worse} of {self.changed}"


def differences(condition: Sequence[float], baseline: Sequence[float], tokens: int) -> list[float]:
    """condition − baseline of each block, a predicted token."""
    return [(mine - theirs) / tokens for mine, theirs in zip(condition, baseline, strict=True)]


def paired_effect(condition: Sequence[float], baseline: Sequence[float], tokens: int) -> Estimate:
    """Sums over each block's ``tokens`` predicted tokens, the same blocks in the same order."""
    largest = max(map(abs, (*condition, *baseline)))
    return estimate(differences(condition, baseline, tokens), 4 * _EPSILON * largest / tokens)


def estimate(values: Sequence[float], resolution: float = 0.0) -> Estimate:
    """``resolution``: spread at or below this is rounding of the values' own arithmetic, not data."""
    n = len(values)
    mean = _sum(values) / n
    if n == 1:
        return Estimate(n, mean, None, None, None, None)
    squares = _sum([(value - mean) * (value - mean) for value in values])
    sd = math.sqrt(squares / (n - 1))
    if sd <= resolution or all(value == values[0] for value in values):
        unchanged = all(value == 0 for value in values)
        return Estimate(n, mean, 0.0, (0.0, 0.0) if unchanged else None, 1.0 if unchanged else None, None)
    se = sd / math.sqrt(n)
    reach = student.quantile(0.975, n - 1) * se
    skewness = _skewness(values, mean, squares)
    return Estimate(n, mean, se, (mean - reach, mean + reach), _two_sided(mean / se, n, skewness), skewness)


def _two_sided(t: float, n: int, skewness: float | None) -> float:
    p = student.two_sided(t, n - 1)
    if skewness is None or abs(skewness) <= MAX_SKEWNESS:
        return p
    # Hall (1992), "On the removal of skewness by transformation".
    w = t / math.sqrt(n)
    cubic = w + (skewness * w * w) / 3 + (skewness * skewness * w * w * w) / 27
    corrected = math.sqrt(n) * (cubic + skewness / (6 * n))
    return 1.0 if corrected * t <= 0 else max(p, student.two_sided(corrected, n - 1))


def _skewness(values: Sequence[float], mean: float, squares: float) -> float | None:
    n = len(values)
    if n < 3:
        return None
    cubes = _sum([(value - mean) ** 3 for value in values])
    g1 = cubes / n / (squares / n) ** 1.5
    return float((g1 * math.sqrt(n * (n - 1))) / (n - 2))


def _sum(values: Sequence[float]) -> float:
    """Over ascending blocks in plain float64: Python's own sum() compensates from 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


def sign_count(values: Sequence[float]) -> SignCount:
    """Of block differences."""
    worse = sum(value > 0 for value in values)
    changed = sum(value != 0 for value in values)
    return SignCount(worse, changed, min(1.0, 2 * _fair_tail(min(worse, changed - worse), changed)))


def _fair_tail(few: int, tosses: int) -> float:
    """P(X ≤ few) for X of ``tosses`` fair ones, few ≤ tosses / 2."""
    term = total = 1.0
    for i in range(few, 0, -1):
        term *= i / (tosses - i + 1)
        if term == 0:
            break
        total += term
    halvings = tosses
    for i in range(1, few + 1):
        total *= (tosses - i + 1) / i
        while total > 1 and halvings > 0:
            total *= 0.5
            halvings -= 1
    while halvings > 0 and total > 0:
        total *= 0.5
        halvings -= 1
    return total


def adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Benjamini–Hochberg q values. None, a measured condition without a test, counts as 1 and has no q."""
    tests = len(p_values)
    tested = sorted(
        ((p, index) for index, p in enumerate(p_values) if p is not None), key=lambda pair: (pair[0], pair[1])
    )
    q: list[float | None] = [None] * tests
    smallest = 1.0
    for rank in range(len(tested), 0, -1):
        p, index = tested[rank - 1]
        smallest = min(smallest, (p * tests) / rank)
        q[index] = smallest
    return q


def floor_rms(baseline: Sequence[float], nulls: Sequence[Sequence[float]], tokens: int) -> float | None:
    """Root mean square of what rounding alone does, from null conditions; None without any."""
    if not nulls:
        return None
    effects = [paired_effect(sums, baseline, tokens).mean for sums in nulls]
    return math.sqrt(_sum([effect**2 for effect in effects]) / len(effects))


def flags_of(effect: Estimate, floor: float | None) -> list[str]:
    """Doubts and hints. ``floor``: the rms of rounding alone."""
    flags = []
    if effect.n == 1:
        flags.append(ONE_BLOCK)
    if effect.n < FEW_BLOCKS:
        flags.append(FEW)
    if effect.skewness is not None and abs(effect.skewness) > MAX_SKEWNESS:
        flags.append(SKEWED)
    if effect.n > 1 and effect.p is None:
        flags.append(NO_SPREAD)
    if floor is not None and abs(effect.mean) < FLOOR_MULTIPLE * floor:
        flags.append(BELOW_FLOOR)
    return flags


def is_distinguishable(q: float | None, flags: Sequence[str]) -> bool:
    return q is not None and q <= FALSE_DISCOVERY_RATE and DOUBTS.isdisjoint(flags)
