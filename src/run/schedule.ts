/** Which slice goes out next, over all batches: several may be under way, and `stop:` still decides in batch order. */

import { type Rate, SlicePlanner } from "../plan/slices.ts";
import { MAX_SLICE_CONDITIONS } from "../protocol/messages.ts";

/** A share of what is left is not cut smaller than this: each slice walks up through the layers once. */
const SMALLEST_SHARE = 4;

export interface Slice {
  readonly batch: Batch;
  /** Ordinals, in the order of work. */
  readonly conditions: readonly number[];
}

export interface Batch {
  readonly ordinal: number;
  /** Ordinals of its evaluation blocks. */
  readonly blocks: readonly number[];
  readonly planner: SlicePlanner;
}

export interface ScheduleInput {
  /** Blocks of every batch. */
  readonly batches: readonly (readonly number[])[];
  /** About how many bytes each condition takes in an envelope. */
  readonly sizes: readonly number[];
  readonly rate: Rate;
  /** Whether what is to be measured from this block on depends on all blocks before it. */
  readonly decidesBefore: (block: number) => boolean;
  /** What is to be measured on these blocks and is not, in the order of work; called once a batch, in their order. */
  readonly missingOn: (blocks: readonly number[]) => readonly number[];
}

/**
 * Batches open in order, as many as it takes to give everybody work; the one before which a round ends opens
 * when all others are done. Slices are given in the order of batches and of work.
 */
export class Schedule {
  readonly #input: ScheduleInput;
  #open: Batch[] = [];
  #next = 0;

  constructor(input: ScheduleInput) {
    this.#input = input;
  }

  /** The next slice for one of `slots` that are to be kept busy; null where nothing can be sent now. */
  next(slots: number): Slice | null {
    while (this.#waiting() < slots * MAX_SLICE_CONDITIONS && this.#mayOpen()) this.#openNext();
    // Towards the end the slices shrink, so that all are busy up to it.
    const share = Math.max(SMALLEST_SHARE, Math.ceil(this.#waiting() / slots));
    for (const batch of this.#open) {
      const conditions = batch.planner.next(share);
      if (conditions !== null) return { batch, conditions };
    }
    return null;
  }

  /** A condition failed for good: no batch asks for it again. */
  giveUp(condition: number): void {
    for (const { planner } of this.#open) planner.settle(condition);
  }

  /** Forgets the batches that are done; whether there were any. */
  forgetFinished(): boolean {
    const before = this.#open.length;
    this.#open = this.#open.filter(({ planner }) => !planner.finished);
    return this.#open.length < before;
  }

  #waiting(): number {
    return this.#open.reduce((sum, { planner }) => sum + planner.waiting, 0);
  }

  #mayOpen(): boolean {
    const [first] = this.#input.batches[this.#next] ?? [];
    if (first === undefined) return false;
    return !this.#input.decidesBefore(first) || this.#open.every(({ planner }) => planner.finished);
  }

  #openNext(): void {
    const blocks = this.#input.batches[this.#next] as readonly number[];
    const { missingOn, sizes, rate } = this.#input;
    this.#open.push({
      ordinal: this.#next++,
      blocks,
      planner: new SlicePlanner(missingOn(blocks), sizes, rate),
    });
  }
}
