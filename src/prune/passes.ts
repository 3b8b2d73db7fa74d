/** Pure: what a search's runs cost, in passes of the unedited model over one block. */
import { headShare } from "../plan/cost.ts";
import { BASELINE_LAYER, firstLayer } from "../plan/slices.ts";
import type { ModelMap } from "../protocol/messages.ts";
import type { Row } from "../results/row.ts";

/** What a search cost, and what it would have cost with one full pass a candidate and block, as SLEB does (2402.09025). */
export interface Passes {
  /** Of all runs on selection blocks. A condition runs the layers from its own first one on, and the head. */
  readonly search: number;
  /** Candidates of all steps, times the selection blocks. */
  readonly one_a_candidate: number;
}

/** @param rows of one run, the baseline first. */
export function passesOf(rows: readonly Row[], map: ModelMap): number {
  const head = headShare(map, map.parameters);
  return rows.reduce((sum, { condition: id, interventions, blocks }) => {
    const first = firstLayer({ id, interventions: [...interventions] });
    const layers = first === BASELINE_LAYER ? map.n_layers : map.n_layers - Math.max(first, 0);
    return sum + blocks * (head + ((1 - head) * layers) / map.n_layers);
  }, 0);
}
