/** Pure: the order in which rows are shown, and what a sweep says as a whole. */
import { FALSE_DISCOVERY_RATE, type Row } from "./rows.ts";
import { median, smallestDetectable } from "./statistics/effects.ts";

/**
 * A sweep's rows without the baseline: by Δ NLL, the most harmful first, or where a race ran by
 * their places in it; then those with nothing to rank (failed, pending). Equals keep the run's order.
 */
export function rankRows([, ...rows]: readonly Row[]): Row[] {
  const place = (row: Row) => row.standing ?? Number.POSITIVE_INFINITY;
  const effect = (row: Row) => row.delta_nll ?? Number.NEGATIVE_INFINITY;
  return rows.sort((a, b) => descending(place(b), place(a)) || descending(effect(a), effect(b)));
}

/** Like b − a, but infinities may be equal. */
function descending(a: number, b: number): number {
  return a === b ? 0 : b > a ? 1 : -1;
}

export interface SweepStatistics {
  readonly conditions: number;
  readonly measured: number;
  readonly failed: number;
  readonly distinguishable: number;
  /** Conditions with q ≤ 0.05 that a flag keeps from being marked. */
  readonly doubted: number;
  /** Median over the measured conditions, nats per token. */
  readonly median_smallest_detectable: number | null;
}

/** Counts over the rows of a sweep, the baseline left out. */
export function sweepStatistics([, ...rows]: readonly Row[]): SweepStatistics {
  const measured = rows.filter((row) => row.delta_nll !== null);
  return {
    conditions: rows.length,
    measured: measured.length,
    failed: rows.filter((row) => row.status === "failed").length,
    distinguishable: rows.filter((row) => row.distinguishable).length,
    doubted: rows.filter((row) => isDoubted(row)).length,
    median_smallest_detectable: median(
      measured.flatMap(({ se, blocks }) => (se === null || se === 0 ? [] : [smallestDetectable(se, blocks)])),
    ),
  };
}

/** q says yes, a flag says the interval cannot be trusted to. */
export function isDoubted(row: Row): boolean {
  return row.distinguishable === false && row.q !== null && row.q <= FALSE_DISCOVERY_RATE;
}
