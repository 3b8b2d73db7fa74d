/** Pure: which conditions to measure next on a batch, and in what portions. */
import { type Condition, MAX_ENVELOPE_BYTES, MAX_SLICE_CONDITIONS } from "../protocol/messages.ts";

/** Half an envelope: msgpack is shorter than JSON, and the rest of the request needs room too. */
const MAX_SLICE_BYTES = MAX_ENVELOPE_BYTES / 2;
/** A slice should take about this long: long enough to reuse the prefix, short enough to lose little. */
const TARGET_SECONDS = 20;
/** Before anything is known of the speed: the baseline alone, so that every later row can be compared with it. */
const FIRST_SLICE_CONDITIONS = 1;
/** A condition that killed the worker this often, alone in its slice, is given up. */
const POISON_DEATHS = 2;

/** The baseline edits no layer; it is measured first. */
export const BASELINE_LAYER = -2;

/** Lowest layer that a condition edits; −1: the embedding. */
export function firstLayer({ interventions, nudge }: Condition): number {
  if (nudge !== undefined) return nudge.layer;
  if (interventions.length === 0) return BASELINE_LAYER;
  return Math.min(
    ...interventions.map((one) => {
      if (one.kind !== "direction") return one.layer;
      return one.layers === "all" ? -1 : Math.min(...one.layers);
    }),
  );
}

/** The order of work: by first edited layer, so that a slice's conditions share their prefix. Gives ordinals. */
export function workOrder(conditions: readonly Condition[]): number[] {
  const layers = conditions.map(firstLayer);
  return [...conditions.keys()].sort((a, b) => (layers[a] ?? 0) - (layers[b] ?? 0) || a - b);
}

/** Evaluation blocks in batches of the run's one shape; the last may be shorter. */
export function batches(blocks: number, batchSize: number): number[][] {
  return Array.from({ length: Math.ceil(blocks / batchSize) }, (_, batch) =>
    Array.from(
      { length: Math.min(batchSize, blocks - batch * batchSize) },
      (_, at) => batch * batchSize + at,
    ),
  );
}

/** How long a condition takes, over all batches. */
export class Rate {
  #secondsPerCondition: number | undefined;

  constructor(secondsPerCondition?: number) {
    this.#secondsPerCondition = secondsPerCondition;
  }

  /** How many conditions take about `TARGET_SECONDS`. */
  get portion(): number {
    if (this.#secondsPerCondition === undefined) return FIRST_SLICE_CONDITIONS;
    return Math.floor(TARGET_SECONDS / Math.max(this.#secondsPerCondition, 1e-6));
  }

  /** A slice of `conditions` took `seconds`; the rate follows slowly, since early layers take longer than late ones. */
  observe(seconds: number, conditions: number): void {
    if (conditions === 0) return;
    const rate = seconds / conditions;
    this.#secondsPerCondition =
      this.#secondsPerCondition === undefined ? rate : (this.#secondsPerCondition + rate) / 2;
  }
}

/** In how many slices a batch's conditions are measured, each taking `seconds`; the run's first batch begins unsure. */
export function slicesOf(conditions: number, seconds: number, first: boolean): number {
  const portion = Math.max(1, Math.min(new Rate(seconds).portion, MAX_SLICE_CONDITIONS));
  const alone = first ? Math.min(FIRST_SLICE_CONDITIONS, conditions) : 0;
  return (alone > 0 ? 1 : 0) + Math.ceil((conditions - alone) / portion);
}

/**
 * Portions of a batch's missing conditions, and what to do when the worker dies on one: its unmeasured
 * conditions are tried again in halves, until the one that kills it is alone.
 */
export class SlicePlanner {
  /** Neither measured nor under way. */
  #missing: Set<number>;
  readonly #underWay = new Set<number>();
  readonly #sizes: readonly number[];
  readonly #rate: Rate;
  /** Suspects: how many of them may share a slice. */
  readonly #groupLimit = new Map<number, number>();
  readonly #deaths = new Map<number, number>();

  /** @param sizes about how many bytes each condition of the run takes in an envelope. */
  constructor(missing: readonly number[], sizes: readonly number[] = [], rate = new Rate()) {
    this.#missing = new Set(missing);
    this.#sizes = sizes;
    this.#rate = rate;
  }

  /** Conditions that `next` has yet to give. */
  get waiting(): number {
    return this.#missing.size;
  }

  get finished(): boolean {
    return this.#missing.size === 0 && this.#underWay.size === 0;
  }

  /** The next portion, or null when nothing waits. It is under way until `ended` or `died`. */
  next(most = MAX_SLICE_CONDITIONS): number[] | null {
    let limit = Math.max(1, Math.min(this.#rate.portion, most, MAX_SLICE_CONDITIONS));
    const slice: number[] = [];
    let bytes = 0;
    for (const condition of this.#missing) {
      bytes += this.#sizes[condition] ?? 0;
      if (bytes > MAX_SLICE_BYTES && slice.length > 0) break;
      limit = Math.min(limit, this.#groupLimit.get(condition) ?? limit);
      if (slice.length >= limit) break;
      slice.push(condition);
    }
    for (const condition of slice) {
      this.#missing.delete(condition);
      this.#underWay.add(condition);
    }
    return slice.length === 0 ? null : slice;
  }

  /** A condition was measured, or failed for good. */
  settle(condition: number): void {
    this.#missing.delete(condition);
    this.#underWay.delete(condition);
    this.#groupLimit.delete(condition);
  }

  /** The slice is no longer under way: what of it was not measured is missing again, before everything else. */
  ended(slice: readonly number[]): number[] {
    const unmeasured = slice.filter((condition) => this.#underWay.delete(condition));
    if (unmeasured.length > 0) this.#missing = new Set([...unmeasured, ...this.#missing]);
    return unmeasured;
  }

  /** Whoever measured this slice died. Returns the condition to give up, if it is proved guilty. */
  died(slice: readonly number[]): number | null {
    const unmeasured = this.ended(slice);
    const [only] = unmeasured;
    if (only !== undefined && unmeasured.length === 1) {
      const deaths = (this.#deaths.get(only) ?? 0) + 1;
      this.#deaths.set(only, deaths);
      this.#groupLimit.set(only, 1);
      return deaths >= POISON_DEATHS ? only : null;
    }
    for (const condition of unmeasured) this.#groupLimit.set(condition, Math.ceil(unmeasured.length / 2));
    return null;
  }
}
