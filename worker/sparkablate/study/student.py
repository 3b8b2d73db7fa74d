"""Student's t distribution: tails to some 1e-13 relative, down to 1e-300, and quantiles. scipy is not here at
run time; the tests hold these against it."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

#: Below it the ratio of gamma functions comes from their logarithms, above it from its series.
_SERIES_FROM = 60.0
_TINY = 1e-300
_MOST_STEPS = 100_000


def tail(t: float, freedom: float) -> float:
    """P(T > t) for t ≥ 0."""
    if math.isinf(t):
        return 0.0
    squared = t * t
    if squared == 0.0:
        return 0.5
    # I_x(ν/2, 1/2) with x = ν / (ν + t²): the fraction converges fast on one side of the mean, as ever.
    half = freedom / 2
    x, y = freedom / (freedom + squared), squared / (freedom + squared)
    log_front = -half * math.log1p(squared / freedom) + 0.5 * math.log(y)
    front = math.exp(log_front) * _gamma_ratio(half) / math.sqrt(math.pi)
    if x < (half + 1) / (half + 2.5):
        return 0.5 * front * _fraction(half, 0.5, x) / half
    return 0.5 - front * _fraction(0.5, half, y)


def two_sided(t: float, freedom: float) -> float:
    """P(|T| ≥ |t|)."""
    return min(1.0, 2 * tail(abs(t), freedom))


@lru_cache(maxsize=4096)
def quantile(probability: float, freedom: float) -> float:
    """t with P(T ≤ t) = ``probability``, from 0.5 to 1."""
    target = 1 - probability
    low, high = 0.0, max(1.0, 2 * NormalDist().inv_cdf(probability))
    while tail(high, freedom) > target:
        low, high = high, 2 * high
    t = (low + high) / 2
    for _ in range(200):
        excess = tail(t, freedom) - target
        low, high = (t, high) if excess > 0 else (low, t)
        step = t + excess / _density(t, freedom)
        following = step if low < step < high else (low + high) / 2
        if abs(following - t) <= 4e-16 * t:
            return following
        t = following
    return t


def _density(t: float, freedom: float) -> float:
    scale = _gamma_ratio(freedom / 2) / math.sqrt(freedom * math.pi)
    return scale * math.exp(-(freedom + 1) / 2 * math.log1p(t * t / freedom))


@lru_cache(maxsize=4096)
def _gamma_ratio(a: float) -> float:
    """Γ(a + 1/2) / Γ(a)."""
    if a < _SERIES_FROM:
        return math.exp(math.lgamma(a + 0.5) - math.lgamma(a))
    inverse = 1 / a
    terms = (-1 / 8, 1 / 128, 5 / 1024, -21 / 32768, -399 / 262144, 869 / 4194304)
    series = 1.0 + sum(term * inverse**power for power, term in enumerate(terms, 1))
    return math.sqrt(a) * series


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (Lentz)."""
    c, d = 1.0, _inverse(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = _inverse(1 + coefficient * d)
            c = 1 + coefficient / c
            c = _TINY if abs(c) < _TINY else c
            factor = d * c
            value *= factor
        if abs(factor - 1) < 3e-16:
            break
    return value


def _inverse(value: float) -> float:
    return 1 / (_TINY if abs(value) < _TINY else value)
