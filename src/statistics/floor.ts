/** What rounding alone does to Δ NLL, from null conditions: the stream moved by one ulp at random. */
import { pairedEffect } from "./effects.ts";

/** What rounding alone does. */
export interface NumericFloor {
  /** Root mean square of the null conditions' Δ NLL, nats per token. */
  readonly rms: number;
  /** Their mean, nats per token. */
  readonly mean: number;
}

/**
 * @param baseline NLL sums a block; @param nulls those of each null condition on the same blocks.
 * @returns null where no null condition was measured.
 */
export function numericFloor(
  baseline: Float64Array,
  nulls: readonly Float64Array[],
  tokens: number,
): NumericFloor | null {
  if (nulls.length === 0) return null;
  const effects = nulls.map((sums) => pairedEffect(sums, baseline, tokens).mean);
  const mean = effects.reduce((total, effect) => total + effect, 0) / effects.length;
  const rms = Math.sqrt(effects.reduce((total, effect) => total + effect ** 2, 0) / effects.length);
  return { rms, mean };
}
