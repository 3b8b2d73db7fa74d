/** Many conditions, one question: p values turned into false-discovery-rate q values. */

/**
 * bh: Benjamini and Hochberg 1995, for independent or positively dependent tests.
 * by: Benjamini and Yekutieli 2001, under any dependence; wider by Σ 1/k.
 */
export type Correction = "bh" | "by";

/**
 * q value of each p value, in the order given: the smallest false discovery rate at which it
 * would be called. A null p is a measured condition without a test: it counts among the tests, as
 * 1, since leaving it out would flatter the others; its own q is null.
 */
export function adjust(
  pValues: readonly (number | null)[],
  correction: Correction = "bh",
): (number | null)[] {
  const tests = pValues.length;
  const p = (index: number): number => pValues[index] as number;
  const tested = [...pValues.keys()].filter((index) => pValues[index] !== null);
  tested.sort((a, b) => p(a) - p(b) || a - b);
  const q: (number | null)[] = new Array(tests).fill(null);
  const factor = tests * (correction === "by" ? harmonic(tests) : 1);
  let smallest = 1;
  for (let rank = tested.length; rank >= 1; rank--) {
    const index = tested[rank - 1] as number;
    smallest = Math.min(smallest, (p(index) * factor) / rank);
    q[index] = smallest;
  }
  return q;
}

/**
 * Confidence of the intervals of `selected` tests of `tests`, picked by q ≤ `rate`: of such intervals a share of
 * `rate` is expected to miss (false coverage rate; Benjamini and Yekutieli 2005). Each excludes 0, as its q says.
 */
export function confidenceOfSelected(selected: number, tests: number, rate: number): number {
  return 1 - (rate * selected) / tests;
}

function harmonic(n: number): number {
  let total = 0;
  for (let k = n; k >= 1; k--) total += 1 / k;
  return total;
}
