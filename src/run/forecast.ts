/** What a run has still to measure, and what that will take. */
import type { SweepPlan } from "../events.ts";
import { peakBytes, sweepCost } from "../plan/cost.ts";
import { batches } from "../plan/slices.ts";
import type { Measurements } from "../results/measurements.ts";
import { answersOf, type Described } from "./records.ts";

export function forecast(
  { plan: { conditions }, texts, loaded, shape }: Described,
  measurements: Measurements,
  metrics: readonly string[],
  slots: number,
): Omit<SweepPlan, "directory" | "may_stop"> {
  const blocks = texts.evaluation.length;
  const answers = answersOf(texts);
  const all = batches(blocks, shape.batch_size);
  const isDone = (condition: number, batch: readonly number[]): boolean =>
    measurements.hasFailed(condition) || batch.every((block) => measurements.has(condition, block));
  // One batch at a time: of many conditions and batches the lists would outweigh the measurements.
  const missing = all.values().map((batch) => ({
    share: batch.length / shape.batch_size,
    conditions: conditions.filter((_, condition) => !isDone(condition, batch)),
  }));
  const { pairs, seconds, forward_equivalents } = sweepCost(missing, loaded, metrics);
  const total = conditions.length * all.length;
  return {
    conditions: conditions.length,
    blocks,
    batches: all.length,
    tokens:
      answers === null
        ? blocks * (shape.seq_len - 1)
        : answers.reduce((sum, { begin, end }) => sum + end - begin, 0),
    of_task: answers !== null,
    total,
    stored: total - pairs,
    forward_equivalents,
    seconds: seconds / slots,
    peak_bytes: peakBytes(loaded, { ...shape, metrics, conditions }),
  };
}
