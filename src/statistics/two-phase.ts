/**
 * Effects that were measured on n blocks, made sharper by attributions on those and N more: the regression estimator for
 * two phases (Cochran, Sampling Techniques, 1977, ch. 12). An attribution is the effect's first-order term, so that the
 * slope takes out most of what blocks differ in; what is left is measured.
 *
 * Variance: HC3 of the residuals (MacKinnon and White, J. Econometrics 29, 1985) and β² s² / M of what M blocks leave
 * open of the attributions' mean. No finite-population correction: the estimand is the mean over texts like this one.
 */
import quantile from "@stdlib/stats-base-dists-t-quantile";
import { adjustedSkewness, type Estimate, estimate, type Interval, twoSidedP } from "./effects.ts";

/** Measured blocks whose attribution is unlike the others', below which a slope rests on too few. */
const FEWEST_INFORMATIVE = 4;
/** Leverage above which one block is the slope. */
const MAX_LEVERAGE = 0.9;

/** What the attributions of the measured blocks tell, decided from the attributions alone. */
export type Information =
  | "enough"
  /** They are all the same: the effect is the plain one, with n − 1 degrees of freedom. */
  | "none"
  /** They differ in fewer than 4 blocks, or one block decides the slope: the wider of both intervals. */
  | "few"
  /** They are all 0 and some of the further ones are not: nothing is known of the spread, and there is no interval. */
  | "unseen";

export interface TwoPhaseEstimate extends Estimate {
  /** From the measured blocks alone. */
  readonly measured: Estimate;
  /** Mean over all blocks. */
  readonly attribution: number;
  /** Of differences and attributions over the measured blocks; null where either has no spread. */
  readonly correlation: number | null;
  /** (Width of the plain interval / width of this one)²; null where either is missing or 0. */
  readonly gain: number | null;
  readonly information: Information;
}

/**
 * @param differences of the measured blocks, one value a block; nats per token for NLL differences  # [n]
 * @param attributions of the measured blocks, in their order, and of the further ones  # [n + N]
 * @param resolution spread of differences at or below this is rounding of their own arithmetic
 */
export function twoPhaseEstimate(
  differences: Float64Array,
  attributions: Float64Array,
  resolution = 0,
): TwoPhaseEstimate {
  const n = differences.length;
  if (attributions.length < n) throw new RangeError("every measured block needs its attribution");
  const plain = estimate(differences, resolution);
  const seen = attributions.subarray(0, n);
  const attribution = mean(attributions);
  const information = informationOf(seen, attributions);
  const correlation = correlationOf(differences, seen);
  const alone = { ...plain, measured: plain, attribution, correlation, gain: null, information };
  if (information === "unseen") return { ...alone, se: null, ci95: null, p: null, skewness: null };
  if (information === "none" || plain.se === 0 || n < 3) return { ...alone, gain: plain.ci95 && 1 };
  const sharper = regressed(differences, attributions, plain);
  const gain = gainOf(plain.ci95, sharper.ci95);
  const chosen =
    information === "few" && gain !== null && gain > 1 ? { ...alone, gain: 1 } : { ...sharper, gain };
  return { ...chosen, measured: plain, attribution, correlation, information };
}

function regressed(differences: Float64Array, attributions: Float64Array, plain: Estimate): Estimate {
  const [n, m] = [differences.length, attributions.length];
  const seen = attributions.subarray(0, n);
  const centre = mean(seen);
  const x = seen.map((value) => value - centre);
  const squares = sum(x, (value) => value ** 2);
  const slope = sum(x, (value, block) => value * (differences[block] as number)) / squares;
  const overall = mean(attributions);
  const shift = overall - centre;
  const weights = x.map((value) => 1 / n + (shift * value) / squares);
  // e / (1 − h): what each block's residual would be had it not drawn the line to itself.
  const residuals = x.map((value, block) => {
    const residual = (differences[block] as number) - plain.mean - slope * value;
    return residual / (1 - 1 / n - value ** 2 / squares);
  });
  const spread = m < 2 ? 0 : sum(attributions, (value) => (value - overall) ** 2) / (m - 1);
  const variance =
    sum(residuals, (value, block) => ((weights[block] as number) * value) ** 2) + (slope ** 2 * spread) / m;
  const [effect, se] = [plain.mean + slope * shift, Math.sqrt(variance)];
  if (se === 0) return { ...plain, mean: effect, se, ci95: null, p: null, skewness: null };
  const reach = quantile(0.975, n - 2) * se;
  const pseudo = residuals.map((value, block) => n * (weights[block] as number) * value);
  const middle = mean(pseudo);
  const skewness = adjustedSkewness(
    pseudo,
    middle,
    sum(pseudo, (value) => (value - middle) ** 2),
  );
  return {
    n,
    mean: effect,
    se,
    ci95: [effect - reach, effect + reach],
    p: twoSidedP(effect / se, n, skewness, n - 2),
    skewness,
  };
}

function informationOf(seen: Float64Array, all: Float64Array): Information {
  const isZero = (value: number) => value === 0;
  if (seen.every(isZero) && !all.every(isZero)) return "unseen";
  const centre = mean(seen);
  const squares = sum(seen, (value) => (value - centre) ** 2);
  const largest = seen.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  if (squares <= seen.length * (4 * Number.EPSILON * largest) ** 2) return "none";
  const counts = new Map<number, number>();
  for (const value of seen) counts.set(value, (counts.get(value) ?? 0) + 1);
  const leverage = seen.reduce((most, value) => Math.max(most, (value - centre) ** 2), 0) / squares;
  const unlike = seen.length - Math.max(...counts.values());
  return unlike < FEWEST_INFORMATIVE || 1 / seen.length + leverage > MAX_LEVERAGE ? "few" : "enough";
}

function correlationOf(a: Float64Array, b: Float64Array): number | null {
  const [meanA, meanB] = [mean(a), mean(b)];
  const product = sum(a, (value, block) => (value - meanA) * ((b[block] as number) - meanB));
  const scale = Math.sqrt(sum(a, (value) => (value - meanA) ** 2) * sum(b, (value) => (value - meanB) ** 2));
  return scale === 0 ? null : product / scale;
}

function gainOf(plain: Interval | null, sharper: Interval | null): number | null {
  if (plain === null || sharper === null) return null;
  const [wide, narrow] = [plain[1] - plain[0], sharper[1] - sharper[0]];
  return wide === 0 || narrow === 0 ? null : (wide / narrow) ** 2;
}

const mean = (values: Float64Array): number => sum(values, (value) => value) / values.length;

function sum(values: Float64Array, of: (value: number, index: number) => number): number {
  let total = 0;
  for (const [index, value] of values.entries()) total += of(value, index);
  return total;
}
