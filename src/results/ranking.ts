/** Pure: the order in which rows are shown, and what a sweep says as a whole. */
import { median, smallestDetectable } from "../statistics/effects.ts";
import type { Rows } from "./packed-rows.ts";
import { FALSE_DISCOVERY_RATE, HINTS, type Interaction, type Row } from "./row.ts";

/**
 * A sweep's rows without the baseline: by Δ NLL, the most harmful first, or where a race ran by
 * their places in it; then those with nothing to rank (failed, pending). Equals keep the run's order.
 * @param most how many of them, from the first.
 */
export function rankRows(
  rows: Rows,
  most = rows.length,
  isWanted: (row: Row) => boolean = () => true,
): Row[] {
  const places = new Float64Array(rows.length);
  const effects = new Float64Array(rows.length);
  const order: number[] = [];
  for (const [index, row] of entriesOf(rows)) {
    if (index === 0 || !isWanted(row)) continue;
    places[index] = row.standing ?? Number.POSITIVE_INFINITY;
    effects[index] = row.delta_nll ?? Number.NEGATIVE_INFINITY;
    order.push(index);
  }
  const number = (list: Float64Array, index: number) => list[index] as number;
  order.sort(
    (a, b) =>
      descending(number(places, b), number(places, a)) || descending(number(effects, a), number(effects, b)),
  );
  return order.slice(0, most).map((index) => rows.at(index) as Row);
}

/** Each row with its index. */
export function* entriesOf(rows: Rows): Generator<[number, Row]> {
  let index = 0;
  for (const row of rows.values()) yield [index++, row];
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
  /** Distinguishable conditions that rest on few blocks. */
  readonly skewed: number;
  /** Median over the measured conditions, nats per token. */
  readonly median_smallest_detectable: number | null;
}

/** Counts over the rows of a sweep, the baseline left out: they are added one by one, and none is kept. */
export class SweepTotals {
  readonly #counts = { conditions: 0, measured: 0, failed: 0, distinguishable: 0, doubted: 0, skewed: 0 };
  readonly #smallest: number[] = [];

  add(row: Row): void {
    const { se, blocks } = row;
    const counts = this.#counts;
    counts.conditions++;
    if (row.status === "failed") counts.failed++;
    if (row.distinguishable) counts.distinguishable++;
    if (row.distinguishable && row.flags.includes(HINTS.skewed)) counts.skewed++;
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

/**
 * Rows with an interaction, the largest first, whatever its sign; then those where it is not measured. Made one by
 * one.
 */
export function* rankedInteractions(rows: Rows): Generator<JointRow> {
  const sizes = new Map<number, number>();
  for (const [index, { interaction }] of entriesOf(rows)) {
    if (interaction === null) continue;
    sizes.set(index, interaction.effect === null ? -1 : Math.abs(interaction.effect));
  }
  const order = [...sizes.keys()].sort((a, b) => descending(sizes.get(a) as number, sizes.get(b) as number));
  for (const index of order) yield rows.at(index) as JointRow;
}

/** @param most how many of them, from the first. */
export const rankInteractions = (rows: Rows, most = rows.length): JointRow[] =>
  rankedInteractions(rows).take(most).toArray();

/** q says yes, a flag says the interval cannot be trusted to. */
export function isDoubted(row: Pick<Row, "distinguishable" | "q">): boolean {
  return row.distinguishable === false && row.q !== null && row.q <= FALSE_DISCOVERY_RATE;
}
