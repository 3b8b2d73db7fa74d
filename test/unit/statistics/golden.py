"""Writes golden.json: what scipy says of the samples that {effects,multiplicity,agreement}.test.ts use.

Run with scipy 1.17 installed:  python test/unit/statistics/golden.py
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats


def sample(name, condition, baseline, tokens):
    difference = (condition - baseline) / tokens
    n = len(difference)
    test = stats.ttest_rel(condition / tokens, baseline / tokens)
    low, high = test.confidence_interval(0.95)
    se = difference.std(ddof=1) / np.sqrt(n)
    factor = stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)
    return {
        "name": name,
        "tokens": tokens,
        "condition": condition.tolist(),
        "baseline": baseline.tolist(),
        "mean": difference.mean(),
        "se": se,
        "ci95": [low, high],
        "p": test.pvalue,
        "skewness": stats.skew(difference, bias=False) if n > 2 else None,
        "smallest_detectable": factor * se,
    }


def agreement(name, a, b):
    ranks = stats.rankdata(a, method="average")
    return {
        "name": name,
        "a": a.tolist(),
        "b": b.tolist(),
        "ranks": ranks.tolist(),
        "rho": stats.spearmanr(a, b).statistic,
    }


def main():
    rng = np.random.default_rng(5)
    samples = []
    for n in (2, 3, 8, 16, 33, 64):
        baseline = rng.normal(700, 60, n)
        for name, shift in (
            ("normal", rng.normal(3, 2, n)),
            ("tiny", rng.normal(0.001, 0.002, n)),
            ("skewed", rng.exponential(4, n)),
            ("huge", rng.normal(2000, 30, n)),
            ("negative", rng.standard_t(3, n) - 1),
        ):
            samples.append(sample(f"{name}, {n} blocks", baseline + shift, baseline, 255))
    p_values = [
        rng.uniform(size=1),
        rng.uniform(size=7) ** 3,
        np.r_[rng.uniform(size=60) ** 4, 0, 1, 1, 0.03, 0.03],
    ]
    a = rng.normal(size=25)
    b = a + rng.normal(size=25)
    pairs = [
        agreement("no ties", a, b),
        agreement("ties on one side", np.round(a, 0), b),
        agreement("ties on both sides", np.round(a, 0), np.round(b, 0)),
        agreement("opposed", a, -a),
        agreement("two", a[:2], b[:2]),
    ]
    golden = {
        "samples": samples,
        "multiplicity": [
            {
                "p": p.tolist(),
                "bh": stats.false_discovery_control(p, method="bh").tolist(),
                "by": stats.false_discovery_control(p, method="by").tolist(),
            }
            for p in p_values
        ],
        "agreement": pairs,
    }
    Path(__file__).with_name("golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
