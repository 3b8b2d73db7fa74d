/**
 * What a handful of equally long blocks say about a mean: the paired t statistics of one condition.
 *
 * The block is the unit: tokens of one block depend on each other, blocks are a random sample.
 * All sums run over ascending block indices in plain float64, so equal inputs give equal bits.
 */
import cdf from "@stdlib/stats-base-dists-t-cdf";
import quantile from "@stdlib/stats-base-dists-t-quantile";

/** Largest |skewness| at which a t statistic is taken at its word. */
export const MAX_SKEWNESS = 1;

/** Both ends, in the estimate's unit. */
export type Interval = readonly [low: number, high: number];

export interface Estimate {
  /** Number of blocks. */
  readonly n: number;
  readonly mean: number;
  /** sd / √n; null with one block, which says nothing about spread. */
  readonly se: number | null;
  /** Two-sided 95 % t interval with n − 1 degrees of freedom, unadjusted for other conditions. */
  readonly ci95: Interval | null;
  /**
   * Two-sided test of "the mean is 0": the t test's; where |skewness| is above `MAX_SKEWNESS` the larger of that and of
   * the test on Hall's skewness-corrected statistic.
   */
  readonly p: number | null;
  /** Adjusted Fisher–Pearson G₁; null below three blocks or without spread. */
  readonly skewness: number | null;
}

/**
 * Mean of one value a block, with its t statistics.
 *
 * Two samples have no spread to build a t statistic from. All values exactly 0: the edit changed
 * nothing, so mean 0, interval [0, 0], p = 1. All values equal but not 0: t would be infinite and p
 * zero, which a few blocks (or a coarse dtype) cannot support, so there is no interval and no p.
 *
 * @param values one value a block, at least one; nats per token for NLL differences
 * @param resolution spread at or below this is rounding of the values' own arithmetic, not data
 */
export function estimate(values: Float64Array, resolution = 0): Estimate {
  const n = values.length;
  if (n === 0) throw new RangeError("an estimate needs at least one block");
  const mean = sum(values, (value) => value) / n;
  if (n === 1) {
    return { n, mean, se: null, ci95: null, p: null, skewness: null };
  }
  const squares = sum(values, (value) => (value - mean) ** 2);
  const sd = Math.sqrt(squares / (n - 1));
  if (sd <= resolution || values.every((value) => value === values[0])) {
    const unchanged = values.every((value) => value === 0);
    return {
      n,
      mean,
      se: 0,
      ci95: unchanged ? [0, 0] : null,
      p: unchanged ? 1 : null,
      skewness: null,
    };
  }
  const se = sd / Math.sqrt(n);
  const freedom = n - 1;
  const t975 = quantile(0.975, freedom);
  const skewness = adjustedSkewness(values, mean, squares);
  return {
    n,
    mean,
    se,
    ci95: [mean - t975 * se, mean + t975 * se],
    p: twoSidedP(mean / se, n, skewness),
    skewness,
  };
}

/**
 * Of "the mean is 0".
 * @param t mean / se.
 * @param n blocks.
 * @param freedom of t's distribution.
 */
export function twoSidedP(t: number, n: number, skewness: number | null, freedom = n - 1): number {
  const p = Math.min(1, 2 * cdf(-Math.abs(t), freedom));
  if (skewness === null || Math.abs(skewness) <= MAX_SKEWNESS) return p;
  const corrected = hallStatistic(t, n, skewness);
  if (corrected * t <= 0) return 1;
  return Math.max(p, Math.min(1, 2 * cdf(-Math.abs(corrected), freedom)));
}

/**
 * Hall (1992), "On the removal of skewness by transformation": a monotone cubic of t that takes the first-order effect of
 * skewness out of its distribution; t itself where there is none.
 */
function hallStatistic(t: number, n: number, skewness: number): number {
  const w = t / Math.sqrt(n);
  const cubic = w + (skewness * w * w) / 3 + (skewness * skewness * w * w * w) / 27;
  return Math.sqrt(n) * (cubic + skewness / (6 * n));
}

/** How many blocks got worse, of those that changed, and how likely a fair coin is at least as lopsided. */
export interface SignCount {
  readonly worse: number;
  /** Blocks whose difference is not 0. */
  readonly changed: number;
  /** Two-sided exact sign test; 1 where none changed. About the median, not the mean. */
  readonly p: number;
}

export function signCount(values: Float64Array): SignCount {
  let [worse, changed] = [0, 0];
  for (const value of values) {
    if (value > 0) worse++;
    if (value !== 0) changed++;
  }
  return { worse, changed, p: Math.min(1, 2 * fairTail(Math.min(worse, changed - worse), changed)) };
}

/** P(X ≤ few) for X of `tosses` fair ones, with few ≤ tosses / 2; additions, products and quotients alone. */
function fairTail(few: number, tosses: number): number {
  // Σ C(n, i) / C(n, few) over i ≤ few, the largest first.
  let [term, total] = [1, 1];
  for (let i = few; i > 0 && term > 0; i--) {
    term *= i / (tosses - i + 1);
    total += term;
  }
  let halvings = tosses;
  for (let i = 1; i <= few; i++) {
    total *= (tosses - i + 1) / i;
    for (; total > 1 && halvings > 0; halvings--) total *= 0.5;
  }
  for (; halvings > 0 && total > 0; halvings--) total *= 0.5;
  return total;
}

/**
 * The paired effect: condition − baseline, block by block, per predicted token.
 *
 * @param condition sums over each block's predicted tokens; same blocks, same order as `baseline`
 * @param tokens predicted tokens a block
 */
export function pairedEffect(condition: Float64Array, baseline: Float64Array, tokens: number): Estimate {
  let largest = 0;
  for (const sums of [condition, baseline])
    for (const sum of sums) largest = Math.max(largest, Math.abs(sum));
  return estimate(blockDifferences(condition, baseline, tokens), (4 * Number.EPSILON * largest) / tokens);
}

/**
 * The departure from additivity, block by block: (joint − baseline) − Σ (part − baseline), per predicted token. All
 * arguments as in `pairedEffect`.
 */
export function interactionEffect(
  joint: Float64Array,
  parts: readonly Float64Array[],
  baseline: Float64Array,
  tokens: number,
): Estimate {
  const differences = blockDifferences(joint, baseline, tokens);
  let largest = 0;
  for (const sums of [joint, baseline, ...parts])
    for (const sum of sums) largest = Math.max(largest, Math.abs(sum));
  for (const part of parts) {
    for (const [block, difference] of blockDifferences(part, baseline, tokens).entries())
      differences[block] = (differences[block] as number) - difference;
  }
  return estimate(differences, (4 * (parts.length + 1) * Number.EPSILON * largest) / tokens);
}

/** condition − baseline of each block, per predicted token. */
export function blockDifferences(
  condition: Float64Array,
  baseline: Float64Array,
  tokens: number,
): Float64Array {
  if (condition.length !== baseline.length)
    throw new RangeError("a paired effect needs the same blocks twice");
  return condition.map((value, block) => (value - (baseline[block] as number)) / tokens);
}

/** A mean over what blocks hold unequally many of. */
export interface RatioEstimate {
  readonly mean: number;
  /** Over blocks; null where fewer than two hold any, or all agree. */
  readonly se: number | null;
  /** Two-sided 95 % t interval with n − 1 degrees of freedom, n: blocks that hold any; null with fewer than `least`. */
  readonly ci95: Interval | null;
}

/**
 * Σ sums / Σ counts with the ratio estimator's linearised standard error: blocks are the sample, and how many things
 * each holds is random too. With equal counts it is `estimate` of the blocks' means.
 *
 * @param counts things a block; not all of them 0
 * @param least blocks that must hold any for an interval
 */
export function ratioEstimate(sums: Float64Array, counts: Float64Array, least = 2): RatioEstimate {
  const holding = [...counts.keys()].filter((block) => (counts[block] as number) > 0);
  const n = holding.length;
  const total = sum(counts, (count) => count);
  const mean = sum(sums, (value) => value) / total;
  const residuals = Float64Array.from(
    holding,
    (block) => (sums[block] as number) - mean * (counts[block] as number),
  );
  const se = n < 2 ? 0 : Math.sqrt((n / (n - 1)) * sum(residuals, (value) => value ** 2)) / total;
  if (se === 0) return { mean, se: null, ci95: null };
  const reach = quantile(0.975, n - 1) * se;
  return { mean, se, ci95: n < least ? null : [mean - reach, mean + reach] };
}

/** Effect that a paired t test at 5 % finds with 80 % power: (t₀.₉₇₅ + t₀.₈) × se, n − 1 degrees of freedom. */
export function smallestDetectable(se: number, n: number): number {
  return (quantile(0.975, n - 1) + quantile(0.8, n - 1)) * se;
}

/** Two-sided t interval at another confidence than 95 %; null where there is none. */
export function intervalAt({ mean, se, ci95, n }: Estimate, confidence: number): Interval | null {
  if (se === null || ci95 === null) return null;
  const reach = se === 0 ? 0 : quantile((1 + confidence) / 2, n - 1) * se;
  return [mean - reach, mean + reach];
}

/** Interval of the perplexity ratio exp(Δ NLL); null where an end overflows. */
export function ratioInterval([low, high]: Interval): Interval | null {
  const ends = [finite(Math.exp(low)), finite(Math.exp(high))] as const;
  return ends[0] === null || ends[1] === null ? null : [ends[0], ends[1]];
}

/** The number, or null where it is infinite or none: JSON has no word for those. */
export function finite(value: number): number | null {
  return Number.isFinite(value) ? value : null;
}

/** Middle value (mean of the middle two); null of none. */
export function median(values: readonly number[]): number | null {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  const upper = sorted[middle] as number;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2;
}

/** Adjusted Fisher–Pearson G₁; null below three values or without spread. @param squares Σ (value − mean)². */
export function adjustedSkewness(values: Float64Array, mean: number, squares: number): number | null {
  const n = values.length;
  if (n < 3 || squares === 0) return null;
  const cubes = sum(values, (value) => (value - mean) ** 3);
  const g1 = cubes / n / (squares / n) ** 1.5;
  return (g1 * Math.sqrt(n * (n - 1))) / (n - 2);
}

function sum(values: Float64Array, of: (value: number) => number): number {
  let total = 0;
  for (const value of values) total += of(value);
  return total;
}
