/** The loop over batches and slices: what is missing is asked for, what comes is stored, what dies is retried. */

import { SparkablateError } from "../errors.ts";
import { type BatchShape, untilCancelled } from "../link/calls.ts";
import type { Worker } from "../link/worker.ts";
import { batches, Rate, workOrder } from "../plan/slices.ts";
import { DONOR_MODES } from "../protocol/catalog.ts";
import type { Answer, Condition, Event, Intervention, Result } from "../protocol/messages.ts";
import type { Measured, Measurements } from "../results/measurements.ts";
import { packIds } from "../samples/bytes.ts";
import type { Block, DonorRows } from "../samples/sample.ts";
import { type RacePlan, race } from "../statistics/racing.ts";
import type { RunStore } from "../store/sqlite.ts";
import { Schedule, type Slice } from "./schedule.ts";

/** Conditions that are given up in a row, with nothing measured between: then it is not the conditions. */
const MOST_GIVEN_UP_IN_A_ROW = 3;
/** Lost sessions and connections in a row, with nothing measured between. */
const MOST_LOSSES_IN_A_ROW = 3;

/** A run's conditions and what they are measured on. */
export interface Measurable {
  /** What they are measured on top of; absent: nothing. */
  readonly given?: readonly Intervention[];
  /** By ordinal. */
  readonly conditions: readonly Condition[];
  /** Token ids of the evaluation blocks, in order  # each [seq_len] */
  readonly blocks: readonly Int32Array[];
  /** Where each block, an item of a task, has its answer; null: every token but the first is predicted. */
  readonly answers: readonly Answer[] | null;
  /** Source rows of the modes that have them, one for each block. */
  readonly donors: DonorRows;
  /** Of one batch. */
  readonly shape: BatchShape;
  readonly meansSha256: string | null;
}

export interface MeasuringInput extends Measurable {
  readonly metrics: readonly string[];
  /** `stop:`; null: every condition sees every block. */
  readonly race: RacePlan | null;
  readonly worker: Worker;
  readonly store: RunStore;
  /** What is measured; grows. */
  readonly measurements: Measurements;
  /** Saves the work in hand, and ends it. */
  readonly signal: AbortSignal;
}

export interface MeasuringHooks {
  /** After each measurement is stored: its condition's ordinal. */
  readonly onMeasured: (condition: number) => void;
  readonly onBatch: () => void;
  /** Something a person should know, e.g. an actor that was excluded. */
  readonly onNotice: (message: string) => void;
  /** `stop:` spares this many (condition, batch) pairs. */
  readonly onSpared: (pairs: number) => void;
  /** Brings the worker back with the model, the means and the directions loaded; tells people why. */
  readonly recover: (error: SparkablateError) => Promise<void>;
}

/**
 * Measures every missing (condition, batch), as many slices beside each other as the worker has slots. Throws
 * `interrupted` once the signal is given, work in hand saved.
 */
export async function measureMissing(input: MeasuringInput, hooks: MeasuringHooks): Promise<void> {
  const run = new Measuring(input, hooks);
  try {
    await run.finish();
  } finally {
    run.over = true;
  }
}

/** A slice that was lost with the worker or its session. */
interface Loss {
  readonly slice: Slice;
  readonly error: SparkablateError;
}

class Measuring {
  /** Nothing may be stored any more: what still comes is of no use. */
  over = false;
  readonly #input: MeasuringInput;
  readonly #hooks: MeasuringHooks;
  readonly #rate = new Rate();
  readonly #schedule: Schedule;
  readonly #underWay = new Set<Promise<void>>();
  #slots: number;
  #lost: Loss[] = [];
  #losses = 0;
  #givenUp = 0;

  constructor(input: MeasuringInput, hooks: MeasuringHooks) {
    this.#input = input;
    this.#hooks = hooks;
    this.#slots = input.worker.greeting.slots;
    const { measurements } = input;
    const order = workOrder(input.conditions);
    this.#schedule = new Schedule({
      batches: batches(input.blocks.length, input.shape.batch_size),
      sizes: input.conditions.map((condition) => JSON.stringify(condition).length),
      rate: this.#rate,
      decidesBefore: (block) => input.race?.rounds.includes(block) ?? false,
      missingOn: (blocks) => {
        const wanted = wantedOn(blocks, input);
        if (wanted !== null) hooks.onSpared(order.length - wanted.size);
        return order.filter(
          (condition) =>
            (wanted?.has(condition) ?? true) &&
            !measurements.hasFailed(condition) &&
            !blocks.every((block) => measurements.has(condition, block)),
        );
      },
    });
  }

  async finish(): Promise<void> {
    for (;;) {
      while (this.#underWay.size < this.#slots && this.#lost.length === 0 && !this.#input.signal.aborted) {
        const slice = this.#schedule.next(this.#slots);
        if (slice === null) break;
        const work = this.#measure(slice).finally(() => this.#underWay.delete(work));
        // A failure shows in the race below; one that comes after it has been lost already.
        work.catch(() => undefined);
        this.#underWay.add(work);
      }
      if (this.#underWay.size > 0) {
        await Promise.race(this.#underWay);
        this.#noteBatches();
      } else if (this.#input.signal.aborted) {
        if (this.#lost.length === 0 && this.#schedule.next(this.#slots) === null) return;
        throw new SparkablateError("interrupted", "interrupted");
      } else if (this.#lost.length > 0) {
        await this.#recover();
      } else {
        this.#noteBatches();
        return;
      }
    }
  }

  #noteBatches(): void {
    if (!this.#schedule.forgetFinished()) return;
    this.#input.store.flush();
    this.#hooks.onBatch();
  }

  async #measure(slice: Slice): Promise<void> {
    const { planner } = slice.batch;
    try {
      const { seconds, slots, notices } = await this.#send(slice);
      this.#rate.observe(seconds, slice.conditions.length);
      this.#slots = slots;
      for (const notice of notices) this.#hooks.onNotice(notice);
      planner.ended(slice.conditions);
    } catch (error) {
      if (!(error instanceof SparkablateError) || !error.retryable) throw error;
      if (this.#input.signal.aborted && error.code !== "actor_died") throw error;
      if (this.over) return;
      this.#input.store.flush();
      if (error.code === "actor_died") this.#died(slice, error);
      else this.#lost.push({ slice, error });
    }
  }

  /** The worker is brought back once all slices that it was given have come to an end. */
  async #recover(): Promise<void> {
    const lost = this.#lost;
    this.#lost = [];
    const [first] = lost as [Loss];
    const died = first.error.code === "worker_died" || first.error.code === "worker_stalled";
    if (died && lost.length === 1) {
      this.#died(first.slice, first.error);
    } else {
      // Several slices, or none of their doing: nothing speaks against one of them.
      for (const { slice } of lost) slice.batch.planner.ended(slice.conditions);
      if (++this.#losses > MOST_LOSSES_IN_A_ROW) throw first.error;
    }
    await this.#hooks.recover(first.error);
    this.#slots = this.#input.worker.greeting.slots;
  }

  /** Whoever measured the slice died of it. A condition that is alone in its slice and kills twice is given up. */
  #died({ batch, conditions }: Slice, error: SparkablateError): void {
    const condition = batch.planner.died(conditions);
    if (condition === null) return;
    this.#givenUp++;
    if (condition === 0 || this.#givenUp > MOST_GIVEN_UP_IN_A_ROW) throw error;
    giveUp(condition, batch.ordinal, error, this.#input);
    this.#schedule.giveUp(condition);
    this.#hooks.onMeasured(condition);
  }

  /** Sends one slice and stores its measurements as they come. */
  async #send({ batch, conditions: slice }: Slice): Promise<Result<"evaluate">> {
    const { conditions, metrics } = this.#input;
    const { blocks, planner } = batch;
    const ordinals = new Map(slice.map((ordinal) => [conditions[ordinal]?.id, ordinal]));
    const { client } = this.#input.worker;
    const { fields, payload } = evaluation(this.#input, blocks, slice, metrics);
    const sent = client.start("evaluate", fields, {
      payload,
      onEvent: (event, sums) => {
        if (event.type !== "measurement" || this.over) return;
        const condition = ordinals.get(event.condition);
        if (condition === undefined) {
          throw new SparkablateError(
            "invalid_message",
            `a measurement of ${event.condition}, which was not asked for`,
          );
        }
        // It failed on another batch meanwhile: its row says so, and nothing more is wanted of it.
        if (this.#input.measurements.hasFailed(condition)) return;
        const measured = asMeasured(event, sums, condition, batch.ordinal, blocks);
        this.#input.store.record(measured);
        note(measured, this.#input.measurements);
        planner.settle(condition);
        if (measured.error !== null) this.#schedule.giveUp(condition);
        this.#losses = 0;
        this.#givenUp = 0;
        this.#hooks.onMeasured(condition);
      },
    });
    return (await untilCancelled(client, sent, this.#input.signal)).result;
  }
}

/**
 * Conditions that are to be measured on these blocks: those that still race for the top; null: all of them. The
 * race is replayed from what is stored, so that a resumed run decides as an uninterrupted one.
 */
function wantedOn(
  [first = 0]: readonly number[],
  { conditions, race: plan, measurements }: MeasuringInput,
): ReadonlySet<number> | null {
  if (plan === null) return null;
  const racers = conditions.flatMap(({ interventions }, ordinal) =>
    interventions.length > 0 ? [ordinal] : [],
  );
  const state = race(
    plan,
    racers.map((ordinal) => measurements.effects(ordinal)?.subarray(0, first) ?? null),
  );
  if (state.finished) return new Set();
  // The baseline and the null conditions do not race; failed ones are not asked for in any case.
  const racing = new Set(racers.filter((ordinal) => !measurements.hasFailed(ordinal)));
  const active = state.active.map((racer) => racers[racer] as number);
  return new Set([...active, ...conditions.keys().filter((ordinal) => !racing.has(ordinal))]);
}

/** The request for conditions on some of the blocks; its payload: their ids, then the donors of each mode that has some. */
export function evaluation(
  { given: base, conditions, blocks: ids, answers, donors, shape, meansSha256 }: Measurable,
  blocks: readonly number[],
  ordinals: readonly number[],
  metrics: readonly string[],
) {
  const given = DONOR_MODES.flatMap((mode) =>
    donors[mode] === undefined ? [] : [{ mode, rows: donors[mode] }],
  );
  const rows = given.flatMap((donor) => blocks.map((block) => (donor.rows[block] as Block).ids));
  const fields = {
    seq_len: shape.seq_len,
    blocks: [...blocks],
    answers: answers && blocks.map((block) => answers[block] as Answer),
    donors: given.map(({ mode }) => mode),
    ...(base !== undefined && { given: [...base] }),
    conditions: ordinals.map((ordinal) => conditions[ordinal] as Condition),
    metrics: [...metrics],
    means_sha256: meansSha256,
  };
  return { fields, payload: packIds([...blocks.map((block) => ids[block] as Int32Array), ...rows]) };
}

function asMeasured(
  { columns, seconds, flags, error }: Event<"measurement">,
  payload: Uint8Array,
  condition: number,
  batch: number,
  blocks: readonly number[],
): Measured {
  const bytes = Float64Array.BYTES_PER_ELEMENT;
  if (error === null && !columns.includes("nll")) {
    throw new SparkablateError("invalid_message", "a measurement without its nll");
  }
  if (payload.length !== columns.length * blocks.length * bytes) {
    throw new SparkablateError("invalid_message", `a measurement with ${payload.length} bytes of sums`);
  }
  // Copied, so that it is aligned for float64.
  const values = new Float64Array(new Uint8Array(payload).buffer);
  return {
    condition,
    batch,
    blocks,
    sums: Object.fromEntries(
      columns.map((name, row) => [name, values.subarray(row * blocks.length, (row + 1) * blocks.length)]),
    ),
    seconds,
    flags,
    error,
  };
}

function note({ condition, blocks, sums, seconds, error }: Measured, measurements: Measurements): void {
  if (error !== null) measurements.fail(condition, error);
  for (const [metric, values] of Object.entries(sums)) {
    for (const [at, block] of blocks.entries())
      measurements.add(condition, block, metric, values[at] as number);
  }
  measurements.addSeconds(condition, seconds);
}

function giveUp(
  condition: number,
  batch: number,
  cause: SparkablateError,
  { store, measurements }: MeasuringInput,
): void {
  const error = {
    code: "worker_crashed" as const,
    message: `${cause.message}, twice, on this condition alone`,
    detail: cause.detail ?? "",
  };
  const measured: Measured = { condition, batch, blocks: [], sums: {}, seconds: 0, flags: [], error };
  store.record(measured);
  note(measured, measurements);
}
