/** Pure: the order in which rows are shown, and what a sweep says as a whole. */

import { median, smallestDetectable } from "../statistics/effects.ts";
import { FALSE_DISCOVERY_RATE, type Interaction, type Row } from "./rows.ts";

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
export function sweepStatistics(rows: readonly Row[]): SweepStatistics {
  const totals = new SweepTotals();
  for (const row of rows.values().drop(1)) totals.add(row);
  return totals.statistics();
}

/** The same, row by row: none is kept. */
export class SweepTotals {
  readonly #counts = { conditions: 0, measured: 0, failed: 0, distinguishable: 0, doubted: 0 };
  readonly #smallest: number[] = [];

  add(row: Row): void {
    const { se, blocks } = row;
    const counts = this.#counts;
    counts.conditions++;
    if (row.status === "failed") counts.failed++;
    if (row.distinguishable) counts.distinguishable++;
    if (isDoubted(row)) counts.doubted++;
    if (row.delta_nll === null) return;
    counts.measured++;
    if (se !== null && se !== 0) this.#smallest.push(smallestDetectable(se, blocks));
  }

  statistics(): SweepStatistics {
    return { ...this.#counts, median_smallest_detectable: median(this.#smallest) };
  }
}

/** A row of a joint condition whose parts are in the run too. */
export type JointRow = Row & { readonly interaction: Interaction };

/** Rows with an interaction, the largest first, whatever its sign; then those where it is not measured. */
export function rankInteractions(rows: readonly Row[]): JointRow[] {
  const size = ({ interaction: { effect } }: JointRow) => (effect === null ? -1 : Math.abs(effect));
  return rows
    .filter((row): row is JointRow => row.interaction !== null)
    .sort((a, b) => descending(size(a), size(b)));
}

/** q says yes, a flag says the interval cannot be trusted to. */
export function isDoubted(row: Pick<Row, "distinguishable" | "q">): boolean {
  return row.distinguishable === false && row.q !== null && row.q <= FALSE_DISCOVERY_RATE;
}
