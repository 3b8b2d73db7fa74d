/** What has been measured so far, in memory: which sums are there, and one condition's row as it stands. */
import type { ErrorCode } from "../errors.ts";
import type { Condition } from "../protocol/messages.ts";
import type { StatisticsSettings } from "./facts.ts";
import type { ConditionMeasurements, Row } from "./row.ts";
import { buildRows } from "./tabulate.ts";

/** One condition on one batch, as the worker sent it. */
export interface Measured {
  readonly condition: number;
  readonly batch: number;
  readonly blocks: readonly number[];
  /** metric → sum a block, in the order of `blocks`; empty where it failed. */
  readonly sums: Readonly<Record<string, Float64Array>>;
  readonly seconds: number;
  readonly flags: readonly string[];
  readonly error: { readonly code: ErrorCode; readonly message: string; readonly detail: string } | null;
}

export class Measurements {
  readonly #conditions: readonly Condition[];
  readonly #blocks: number;
  readonly #tokens: number;
  readonly #answers: readonly number[] | null;
  /** metric → sums  # [conditions * blocks], NaN where there is none yet */
  readonly #sums = new Map<string, Float64Array>();
  readonly #seconds: Float64Array;
  readonly #failed = new Map<number, NonNullable<ConditionMeasurements["error"]>>();

  /**
   * @param tokens what sums are divided by: `divisor` of the run's facts.
   * @param answers tokens of each item's answer; null where blocks are measured.
   */
  constructor(
    conditions: readonly Condition[],
    blocks: number,
    tokens: number,
    answers: readonly number[] | null = null,
  ) {
    this.#conditions = conditions;
    this.#blocks = blocks;
    this.#tokens = tokens;
    this.#answers = answers;
    this.#seconds = new Float64Array(conditions.length);
  }

  add(condition: number, block: number, metric: string, sum: number): void {
    let sums = this.#sums.get(metric);
    if (sums === undefined) {
      sums = new Float64Array(this.#conditions.length * this.#blocks).fill(Number.NaN);
      this.#sums.set(metric, sums);
    }
    sums[condition * this.#blocks + block] = sum;
  }

  addSeconds(condition: number, seconds: number): void {
    this.#seconds[condition] = (this.#seconds[condition] ?? 0) + seconds;
  }

  fail(condition: number, error: NonNullable<ConditionMeasurements["error"]>): void {
    this.#failed.set(condition, error);
  }

  hasFailed(condition: number): boolean {
    return this.#failed.has(condition);
  }

  has(condition: number, block: number): boolean {
    const sum = this.#sums.get("nll")?.[condition * this.#blocks + block];
    return sum !== undefined && !Number.isNaN(sum);
  }

  /** Whether the baseline is measured wherever the condition is: then its row counts all of its blocks. */
  isPaired(condition: number): boolean {
    for (let block = 0; block < this.#blocks; block++)
      if (this.has(condition, block) && !this.has(0, block)) return false;
    return true;
  }

  /**
   * The condition against the baseline, on the blocks both have. What the whole sweep decides (q, the mark) is
   * null: one condition alone would be over-confident.
   */
  row(condition: number, settings: StatisticsSettings): Row {
    const baseline = this.#of(0);
    const [first, second] = buildRows(baseline, condition === 0 ? [] : [this.#of(condition)], settings);
    return { ...((second ?? first) as Row), q: null, distinguishable: null };
  }

  /** Δ NLL a predicted token in blocks 0, 1, 2, … as far as they are measured; null where the condition failed. */
  effects(condition: number): Float64Array | null {
    if (this.hasFailed(condition)) return null;
    const nll = this.#sums.get("nll") ?? new Float64Array();
    const from = condition * this.#blocks;
    const differences: number[] = [];
    for (let block = 0; block < this.#blocks && this.has(condition, block) && this.has(0, block); block++) {
      differences.push(((nll[from + block] as number) - (nll[block] as number)) / this.#tokens);
    }
    return Float64Array.from(differences);
  }

  #of(condition: number): ConditionMeasurements {
    const blocks = Array.from({ length: this.#blocks }, (_, block) => block).filter((block) =>
      this.has(condition, block),
    );
    const from = condition * this.#blocks;
    return {
      condition: this.#conditions[condition] as Condition,
      blocks,
      sums: Object.fromEntries(
        [...this.#sums].map(([metric, sums]) => [
          metric,
          Float64Array.from(blocks, (block) => sums[from + block] ?? Number.NaN),
        ]),
      ),
      tokens: this.#tokens,
      answers: this.#answers,
      seconds: this.#seconds[condition] ?? 0,
      flags: [],
      error: this.#failed.get(condition) ?? null,
    };
  }
}
