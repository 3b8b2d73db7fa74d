/** What a run has still to measure, and what that will take. */
import type { BatchShape } from "../link/calls.ts";
import { peakBytes, type SweepCost, sweepCost } from "../plan/cost.ts";
import { batches } from "../plan/slices.ts";
import type { Condition, LoadedModel } from "../protocol/messages.ts";
import type { Measurements } from "../results/measurements.ts";

export interface Forecast extends Omit<SweepCost, "pairs"> {
  readonly batches: number;
  /** (condition, batch) pairs in all. */
  readonly total: number;
  /** Of them, those that are measured, or failed, before this. */
  readonly stored: number;
  readonly peak_bytes: number;
}

export function forecast(
  conditions: readonly Condition[],
  blocks: number,
  measurements: Measurements,
  loaded: LoadedModel,
  shape: BatchShape,
  metrics: readonly string[],
): Forecast {
  const all = batches(blocks, shape.batch_size);
  const isDone = (condition: number, batch: readonly number[]): boolean =>
    measurements.hasFailed(condition) || batch.every((block) => measurements.has(condition, block));
  // One batch at a time: of many conditions and batches the lists would outweigh the measurements.
  const missing = all.values().map((batch) => ({
    share: batch.length / shape.batch_size,
    conditions: conditions.filter((_, condition) => !isDone(condition, batch)),
  }));
  const { pairs, ...cost } = sweepCost(missing, loaded, metrics);
  const total = conditions.length * all.length;
  return {
    batches: all.length,
    total,
    stored: total - pairs,
    ...cost,
    peak_bytes: peakBytes(loaded, { ...shape, metrics, conditions }),
  };
}
