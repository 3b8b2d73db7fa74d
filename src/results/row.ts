/** One row of the table, and what it is made of. */
import type { ErrorCode } from "../errors.ts";
import type { Condition } from "../protocol/messages.ts";
import type { Estimate, Interval } from "../statistics/effects.ts";

/** Fewer blocks than this: "few blocks". */
export const FEW_BLOCKS = 16;
/** Multiple of the numeric floor's rms below which an effect may be rounding. */
export const FLOOR_MULTIPLE = 3;
/** False discovery rate of the mark. */
export const FALSE_DISCOVERY_RATE = 0.05;

/** Flags that keep a condition from being marked, whatever its q. */
export const DOUBTS = {
  oneBlock: "one block, no interval",
  fewBlocks: "few blocks",
  noSpread: "identical in every block, no interval",
  belowFloor: "below the numeric floor",
} as const;

/** Flags that tell how to read a row and keep nothing from it. */
export const HINTS = {
  skewed: "skewed: rests on few blocks",
  otherGiven: "measured on top of other given edits",
} as const;

/**
 * done: measured on every block of the baseline; partial: on some of them so far; stopped: on all
 * that `stop:` wants of it; pending: on none yet; failed: see `error`.
 */
export type Status = "done" | "partial" | "stopped" | "pending" | "failed";

/** One metric of one condition. */
export interface MetricEstimate {
  /** Mean a predicted token: nats (kl), or a share (top1). */
  readonly mean: number | null;
  /** Standard error, over blocks. */
  readonly se: number | null;
  /** Two-sided 95 % t interval. */
  readonly ci95: Interval | null;
}

/**
 * What a joint condition does beyond the sum of its parts: Δ NLL(joint) − Σ Δ NLL(part), paired block by block.
 * Positive: the parts back each other up. docs/redundancy.md says more.
 */
export interface Interaction {
  /** Conditions of the run, measured alone, that the joint one is made of. */
  readonly parts: readonly string[];
  /** Nats per predicted token; null where it or a part is not measured. */
  readonly effect: number | null;
  /** Standard error, over blocks. */
  readonly se: number | null;
  /** Of this interaction alone. */
  readonly ci95: Interval | null;
  /** Two-sided paired t test of "the effects add up". */
  readonly p: number | null;
  /** p adjusted over all measured interactions of the run: a family of their own. */
  readonly q: number | null;
  /** q ≤ 0.05 and no flag that doubts the interval; null where nothing was compared. */
  readonly distinguishable: boolean | null;
  /** Why its interval may not hold. */
  readonly flags: readonly string[];
  /** Blocks on which the condition, its parts and the baseline were all measured. */
  readonly blocks: number;
}

/** One row of the table: `rowRecord` lays it out as the JSON and CSV columns. */
export interface Row {
  /** Id, e.g. `L14.head[3,7].zero`; `baseline` in the first row. */
  readonly condition: string;
  /** Of its one intervention; `joint` for several, `baseline` for none. */
  readonly kind: string;
  /** Null where there is not exactly one. */
  readonly layer: number | null;
  /** Numbers of the parts that are edited: query heads, key/value groups or neurons; null where the kind has none. */
  readonly heads: readonly number[] | null;
  /** zero, mean or skip; a direction's operation; null where there is not exactly one intervention. */
  readonly mode: string | null;
  /** The edits, all applied in the same forward pass. */
  readonly interventions: Condition["interventions"];
  /** Id of the edits that it and the baseline are measured on top of; absent where there are none. */
  readonly given?: string;
  /** How far it is measured. */
  readonly status: Status;
  /** Nats per predicted token. */
  readonly nll: number | null;
  /** Nats per predicted token: paired with the baseline on the same blocks; 0 for the baseline itself. */
  readonly delta_nll: number | null;
  /** Of `delta_nll`: sd of the blocks' differences / √blocks. */
  readonly se: number | null;
  /** Of this condition alone; in a race simultaneous for all conditions, at the race's confidence. */
  readonly ci95: Interval | null;
  /**
   * Two-sided paired t test of no effect, corrected where the blocks' differences are skewed; null in a race, and where
   * there is no spread.
   */
  readonly p: number | null;
  /** p adjusted over all measured conditions of the run; null in a row of a running sweep. */
  readonly q: number | null;
  /** q ≤ 0.05 and no flag that doubts the interval; null where nothing was compared. */
  readonly distinguishable: boolean | null;
  /** In how many of the blocks that changed at all NLL rose, like "30 of 32". */
  readonly worse_blocks: string | null;
  /** Two-sided exact sign test of those: about the median block, not the mean. */
  readonly sign_p: number | null;
  /** Why its interval may not hold, or how to read it: docs/reading-the-numbers.md lists them. */
  readonly flags: readonly string[];
  /** exp(nll). */
  readonly perplexity: number | null;
  /** exp(delta_nll). */
  readonly perplexity_ratio: number | null;
  /** exp of `ci95`. */
  readonly perplexity_ratio_ci95: Interval | null;
  /** Blocks measured so far, or items of a task. */
  readonly blocks: number;
  /** Predicted tokens in those blocks, or tokens of those items' answers. */
  readonly tokens: number;
  /** Time the worker computed. */
  readonly seconds: number;
  /** Columns beside nll: kl, top1, …; of a level (logit_diff, accuracy) its change from the baseline too. */
  readonly metrics: Readonly<Record<string, MetricEstimate>>;
  /** Of a joint condition whose parts are in the run too; else null, as in a race and in a row of a running sweep. */
  readonly interaction: Interaction | null;
  /** Why it failed; null where it did not. */
  readonly error: ErrorCode | null;
  /** Place in the ranking where a race gives it, since means over different blocks do not compare. */
  readonly standing: number | null;
}

/** All that the store has of one condition. */
export interface ConditionMeasurements {
  readonly condition: Condition;
  /** Block indices, ascending. */
  readonly blocks: readonly number[];
  /** Column → sum over the block's predicted tokens, or the item's value, in the order of `blocks`; always "nll". */
  readonly sums: Readonly<Record<string, Float64Array>>;
  /** What a sum is divided by: predicted tokens a block; 1 for the items of a task. */
  readonly tokens: number;
  /** Tokens of each item's answer, by block index; null or absent where blocks are measured. */
  readonly answers?: readonly number[] | null;
  readonly seconds: number;
  readonly flags: readonly string[];
  readonly error: { readonly code: ErrorCode; readonly message: string } | null;
}

export type Draft = { -readonly [K in keyof Row]: Row[K] };

/** A row in the making. */
export interface Entry {
  readonly row: Draft;
  /** null where nothing was compared. */
  readonly effect: Estimate | null;
  /** In a race: Δ NLL a token of blocks 0, 1, 2, … as far as they are measured without a gap. */
  readonly differences: Float64Array | null;
}

/** Fills in what all entries together decide of one, given its index among them. */
export type Decide = (entry: Entry, index: number) => void;
