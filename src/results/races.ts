/** What `stop:` makes of a sweep's rows: simultaneous intervals, no tests, and places by common blocks. */

import { estimate, ratioInterval } from "../statistics/effects.ts";
import {
  type Edge,
  edgeOf,
  RACE_FLAGS,
  type RacePlan,
  race,
  simultaneousInterval,
} from "../statistics/racing.ts";
import type { Decide, Entry } from "./row.ts";

/** Decides the columns that a race decides. */
export function standings(entries: Iterable<Entry>, plan: RacePlan): Decide {
  /** null where it failed. */
  const differences: (Float64Array | null)[] = [];
  const measured: number[] = [];
  for (const { row, effect, differences: own } of entries) {
    const length = differences.push(row.status === "failed" ? null : (own ?? new Float64Array()));
    if (effect !== null) measured.push(length - 1);
  }
  const state = race(plan, differences);
  const active = new Set(state.active);
  const accepted = new Set(state.accepted);
  const chosen = new Set(state.chosen);
  const edge = edgeOf(plan);
  const groups = [
    measured.filter((condition) => chosen.has(condition)),
    measured.filter((condition) => active.has(condition)),
    measured.filter((condition) => !chosen.has(condition) && !active.has(condition)),
  ];
  const places = new Map(
    groups
      .flatMap((group) => byCommonBlocks(group, differences, edge))
      .map((condition, standing) => [condition, standing]),
  );
  return ({ row, effect }, condition) => {
    if (effect === null) return;
    row.p = null;
    row.ci95 =
      effect.se === null || effect.ci95 === null
        ? null
        : simultaneousInterval(plan, effect.mean, effect.se, effect.n);
    row.perplexity_ratio_ci95 = row.ci95 && ratioInterval(row.ci95);
    if (row.status === "partial" && !active.has(condition)) row.status = "stopped";
    if (chosen.has(condition)) {
      row.flags = [accepted.has(condition) ? RACE_FLAGS[edge] : RACE_FLAGS.leading, ...row.flags];
    }
    row.standing = places.get(condition) ?? null;
  };
}

/** Largest effect first, or smallest, on the blocks that all of the group have. */
function byCommonBlocks(
  group: readonly number[],
  differences: readonly (Float64Array | null)[],
  edge: Edge,
): number[] {
  const values = group.map((condition) => differences[condition] ?? new Float64Array());
  const common = values.reduce((least, { length }) => Math.min(least, length), Number.POSITIVE_INFINITY);
  const means = new Map(
    group.map((condition, index) => {
      const shared = values[index]?.subarray(0, common) ?? new Float64Array();
      return [condition, shared.length === 0 ? 0 : estimate(shared).mean];
    }),
  );
  const sign = edge === "top" ? 1 : -1;
  return [...group].sort((a, b) => sign * ((means.get(b) ?? 0) - (means.get(a) ?? 0)) || a - b);
}
