/** Pure: what the steps of a path cost on held-out blocks, which step that allows, and where texts disagree. */
import quantile from "@stdlib/stats-base-dists-t-quantile";
import type { Row } from "../results/row.ts";
import type { Interval } from "../statistics/effects.ts";

const CONFIDENCE = 0.95;

/** What removing a step's set costs on one text's held-out blocks. */
export interface TextEffect {
  /** Its path or name, as it was given. */
  readonly text: string;
  /** Held-out ones that were measured. */
  readonly blocks: number;
  /** Nats a token, from the unedited model; null where it could not be measured. */
  readonly delta_nll: number | null;
  /** Over blocks; null with one. */
  readonly se: number | null;
  /** Two-sided t interval. */
  readonly ci95: Interval | null;
  /** One-sided 95 % bound from above; null where nothing is known of the spread, or where all blocks repeat what chose. */
  readonly upper95: number | null;
  /** Whether all blocks repeat text that chose the units: then this is no independent measurement. */
  readonly repeats: boolean;
  /** Held-out blocks that repeat text that chose the units, and do not count. */
  readonly left_out: number;
}

/** @param row of the step's set on the text's held-out blocks. */
export function textEffect(
  text: string,
  row: Pick<Row, "delta_nll" | "se" | "ci95" | "blocks">,
  { repeats, left_out }: Pick<TextEffect, "repeats" | "left_out">,
): TextEffect {
  const { delta_nll, se, ci95, blocks } = row;
  const upper95 = delta_nll === null || repeats ? null : upperBound(delta_nll, se, blocks);
  return { text, blocks, delta_nll, se, ci95, upper95, repeats, left_out };
}

export interface Step {
  /** Units that are removed; of units that every layer loses, from each. */
  readonly size: number;
  /** One for each text, in their order. */
  readonly held_out: readonly TextEffect[];
}

/** @param blocks from which mean and standard error come. */
export function upperBound(mean: number, se: number | null, blocks: number): number | null {
  // The same difference in every block is no proof of certainty.
  if (se === null || se === 0 || blocks < 2) return null;
  return mean + quantile(CONFIDENCE, blocks - 1) * se;
}

/**
 * The last step before the first whose bound exceeds `most` on some text: hypotheses tested in an order fixed on other
 * blocks, each at 5 %, until one stands (Maurer, Hothorn and Lehmacher, 1995), so that the chance of a chosen set that
 * truly costs more is at most 5 % without a correction.
 */
export function lastAllowed<S extends Step>(steps: readonly S[], most: number): S | null {
  const allowed = (step: S) => step.held_out.every(({ upper95 }) => upper95 !== null && upper95 <= most);
  const fails = steps.findIndex((step) => !allowed(step));
  return (fails < 0 ? steps.at(-1) : steps[fails - 1]) ?? null;
}

/** From some step on two texts cost differently. */
export interface Disagreement {
  /** Units removed in the first such step. */
  readonly from_size: number;
  /** Where the last step costs most. */
  readonly most: string;
  /** Where it costs least. */
  readonly least: string;
}

/**
 * The first step from which on, in every one, the costliest and the cheapest text differ: Welch's t at 95 %, divided by the
 * number of pairs of texts. null: no step.
 */
export function disagreement(steps: readonly Step[]): Disagreement | null {
  const agreeing = steps.findLastIndex(({ held_out }) => !differs(held_out));
  const [first, last] = [steps[agreeing + 1], steps.at(-1)];
  const [most, least] = extremes(last?.held_out ?? []);
  if (first === undefined || most === undefined || least === undefined) return null;
  return { from_size: first.size, most: most.text, least: least.text };
}

function differs(effects: readonly TextEffect[]): boolean {
  const [most, least] = extremes(effects);
  if (most?.se == null || least?.se == null || most === least) return false;
  const [a, b] = [most.se ** 2, least.se ** 2];
  if (a + b === 0) return false;
  const freedom = (a + b) ** 2 / (a ** 2 / (most.blocks - 1) + b ** 2 / (least.blocks - 1));
  const pairs = (effects.length * (effects.length - 1)) / 2;
  const width = quantile(1 - (1 - CONFIDENCE) / (2 * pairs), freedom) * Math.sqrt(a + b);
  return most.delta_nll - least.delta_nll > width;
}

type Measured = TextEffect & { readonly delta_nll: number };

/** Where it costs most, and least. */
function extremes(effects: readonly TextEffect[]): [Measured | undefined, Measured | undefined] {
  const measured = effects.filter((one): one is Measured => one.delta_nll !== null);
  const order = measured.sort((x, y) => y.delta_nll - x.delta_nll);
  return [order[0], order.at(-1)];
}
