/** What `stop:` makes of a sweep's rows: simultaneous intervals, no tests, and places by common blocks. */
import type { Entry } from "./rows.ts";
import { estimate, ratioInterval } from "./statistics/effects.ts";
import { RACE_FLAGS, type RacePlan, race, simultaneousInterval } from "./statistics/racing.ts";

/** Fills in the columns that a race decides. */
export function standInRace(entries: readonly Entry[], plan: RacePlan): void {
  const failed = ({ row }: Entry) => row.status === "failed";
  const state = race(
    plan,
    entries.map((entry) => (failed(entry) ? null : (entry.differences ?? new Float64Array()))),
  );
  const active = new Set(state.active);
  const accepted = new Set(state.accepted);
  const top = new Set(state.top);
  for (const [condition, { row, effect }] of entries.entries()) {
    if (effect === null) continue;
    row.p = null;
    row.ci95 =
      effect.se === null || effect.ci95 === null
        ? null
        : simultaneousInterval(plan, effect.mean, effect.se, effect.n);
    row.perplexity_ratio_ci95 = row.ci95 && ratioInterval(row.ci95);
    if (row.status === "partial" && !active.has(condition)) row.status = "stopped";
    if (top.has(condition)) {
      row.flags = [accepted.has(condition) ? RACE_FLAGS.top : RACE_FLAGS.leading, ...row.flags];
    }
  }
  const measured = entries.flatMap(({ effect }, condition) => (effect === null ? [] : [condition]));
  const groups = [
    measured.filter((condition) => top.has(condition)),
    measured.filter((condition) => active.has(condition)),
    measured.filter((condition) => !top.has(condition) && !active.has(condition)),
  ];
  let standing = 0;
  for (const condition of groups.flatMap((group) => byCommonBlocks(group, entries))) {
    (entries[condition] as Entry).row.standing = standing++;
  }
}

/** Largest effect first, on the blocks that all of the group have. */
function byCommonBlocks(group: readonly number[], entries: readonly Entry[]): number[] {
  const values = group.map((condition) => entries[condition]?.differences ?? new Float64Array());
  const common = values.reduce((least, { length }) => Math.min(least, length), Number.POSITIVE_INFINITY);
  const means = new Map(
    group.map((condition, index) => {
      const shared = values[index]?.subarray(0, common) ?? new Float64Array();
      return [condition, shared.length === 0 ? 0 : estimate(shared).mean];
    }),
  );
  return [...group].sort((a, b) => (means.get(b) ?? 0) - (means.get(a) ?? 0) || a - b);
}
