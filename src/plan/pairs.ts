/** `sweep: pairs`: the largest effects of an earlier run, each alone, then every two together. */

import { overlaps } from "../conditions/overlaps.ts";
import type { AblationConfig } from "../config/schema.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";

/** What the planner must know of the run that `from` names. */
export interface EarlierRun {
  /** Its measured edits of one component each, the largest Δ NLL first. */
  readonly components: readonly Intervention[];
  /** Id of what they were measured on top of; absent: nothing. */
  readonly given?: string;
}

export interface PairSweep {
  /** Edits of each condition. */
  readonly conditions: readonly (readonly Intervention[])[];
  /** What a person should know, e.g. pairs that cannot be one condition. */
  readonly notices: readonly string[];
}

/** Those of the earlier run that may be paired: in the layers asked for, and no directions, whose files it does not keep. */
export function candidates(
  { components }: EarlierRun,
  layers: AblationConfig["layers"],
): Exclude<Intervention, { kind: "direction" }>[] {
  return components.flatMap((one) =>
    one.kind !== "direction" && (layers === "all" || layers.includes(one.layer)) ? [one] : [],
  );
}

/** @param chosen by their place in the ranking. */
export function pairSweep(chosen: readonly Intervention[], map: ModelMap): PairSweep {
  const pairs = chosen.flatMap((first, index) => chosen.slice(index + 1).map((second) => [first, second]));
  const conflicts = pairs.flatMap((pair) => overlaps(pair, map).slice(0, 1));
  return {
    conditions: [...chosen.map((one) => [one]), ...pairs.filter((pair) => overlaps(pair, map).length === 0)],
    notices:
      conflicts.length === 0
        ? []
        : [`sweep: pairs leaves out ${conflicts.length} of ${pairs.length} pairs: ${conflicts.join("; ")}`],
  };
}
