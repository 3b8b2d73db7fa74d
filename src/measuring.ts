/** The loop over batches and slices: what is missing is asked for, what comes is stored, what dies is retried. */
import type { Block } from "./corpus.ts";
import { SparkablateError } from "./errors.ts";
import type { Worker } from "./link/worker.ts";
import type { Measured, Measurements } from "./measurements.ts";
import { type Answer, type Condition, type Event, SOURCE_MODES } from "./protocol.ts";
import { batches, SlicePlanner, workOrder } from "./slices.ts";
import type { SourceMode, SourceRows } from "./sources.ts";
import { type RacePlan, race } from "./statistics/racing.ts";
import type { RunStore } from "./store/sqlite.ts";

/** Condemned conditions in a row, with nothing measured between: then it is not the conditions. */
const MOST_CONDEMNED_IN_A_ROW = 3;
/** Lost sessions and connections in a row, with nothing measured between. */
const MOST_LOSSES_IN_A_ROW = 3;

export interface MeasuringInput {
  readonly conditions: readonly Condition[];
  /** Token ids of the evaluation blocks, in order  # each [seq_len] */
  readonly blocks: readonly Int32Array[];
  /** Where each block, an item of a task, has its answer; null: every token but the first is predicted. */
  readonly answers: readonly Answer[] | null;
  /** Source rows of the modes that have them, one for each block. */
  readonly sources: SourceRows;
  readonly batchSize: number;
  readonly seqLen: number;
  readonly metrics: readonly string[];
  readonly meansSha256: string | null;
  /** `stop:`; null: every condition sees every block. */
  readonly race: RacePlan | null;
}

export interface MeasuringHooks {
  /** After each measurement is stored: its condition's ordinal. */
  readonly onMeasured: (condition: number) => void;
  readonly onBatch: () => void;
  /** `stop:` spares this many (condition, batch) pairs. */
  readonly onSpared: (pairs: number) => void;
  /** Brings the worker back with the model, the means and the directions loaded; tells people why. */
  readonly recover: (error: SparkablateError) => Promise<void>;
}

/** Measures every missing (condition, batch). Throws `interrupted` once the signal is given, work in hand saved. */
export async function measureMissing(
  input: MeasuringInput,
  worker: Worker,
  store: RunStore,
  measurements: Measurements,
  hooks: MeasuringHooks,
  signal: AbortSignal,
): Promise<void> {
  const order = workOrder(input.conditions);
  const sizes = input.conditions.map((condition) => JSON.stringify(condition).length);
  let rate: number | undefined;
  let losses = 0;
  let condemned = 0;

  for (const [batch, blocks] of batches(input.blocks.length, input.batchSize).entries()) {
    const wanted = wantedOn(blocks, input, measurements);
    if (wanted !== null) hooks.onSpared(order.length - wanted.size);
    const isMissing = (condition: number): boolean =>
      (wanted?.has(condition) ?? true) &&
      !measurements.hasFailed(condition) &&
      !blocks.every((block) => measurements.has(condition, block));
    const planner = new SlicePlanner(order.filter(isMissing), sizes, rate);
    for (let slice = planner.next(); slice !== null; slice = planner.next()) {
      if (signal.aborted) throw new SparkablateError("interrupted", "interrupted");
      const settled = (condition: number): void => {
        planner.settle(condition);
        losses = 0;
        condemned = 0;
        hooks.onMeasured(condition);
      };
      try {
        const seconds = await measureSlice(
          input,
          { batch, blocks, slice },
          worker,
          store,
          measurements,
          settled,
          signal,
        );
        planner.observe(seconds, slice.length);
      } catch (error) {
        if (!(error instanceof SparkablateError) || !error.retryable || signal.aborted) throw error;
        store.flush();
        if (error.code === "worker_died" || error.code === "worker_stalled") {
          const guilty = planner.died(slice);
          if (guilty !== null) {
            condemned++;
            if (guilty === 0 || condemned > MOST_CONDEMNED_IN_A_ROW) throw error;
            condemn(guilty, batch, error, store, measurements);
            planner.settle(guilty);
            hooks.onMeasured(guilty);
          }
        } else if (++losses > MOST_LOSSES_IN_A_ROW) {
          throw error;
        }
        await hooks.recover(error);
      }
    }
    rate = planner.secondsPerCondition;
    store.flush();
    hooks.onBatch();
  }
}

/**
 * Conditions that are to be measured on these blocks: those that still race for the top; null: all of them. The
 * race is replayed from what is stored, so that a resumed run decides as an uninterrupted one.
 */
function wantedOn(
  [first = 0]: readonly number[],
  { conditions, race: plan }: MeasuringInput,
  measurements: Measurements,
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

interface Slice {
  readonly batch: number;
  readonly blocks: readonly number[];
  readonly slice: readonly number[];
}

/** Sends one slice and stores its measurements as they come. Returns the seconds it took. */
async function measureSlice(
  { conditions, blocks: ids, answers, sources, seqLen, metrics, meansSha256 }: MeasuringInput,
  { batch, blocks, slice }: Slice,
  worker: Worker,
  store: RunStore,
  measurements: Measurements,
  settled: (condition: number) => void,
  signal: AbortSignal,
): Promise<number> {
  const ordinals = new Map(slice.map((ordinal) => [conditions[ordinal]?.id, ordinal]));
  const { client } = worker;
  const { id, reply } = client.start(
    "evaluate",
    {
      seq_len: seqLen,
      blocks: [...blocks],
      answers: answers && blocks.map((block) => answers[block] as Answer),
      sources: modesOf(sources),
      conditions: slice.map((ordinal) => conditions[ordinal] as Condition),
      metrics: [...metrics],
      means_sha256: meansSha256,
    },
    {
      payload: packRows(blocks, ids, sources),
      onEvent(event, payload) {
        if (event.type !== "measurement") return;
        const condition = ordinals.get(event.condition);
        if (condition === undefined) {
          throw new SparkablateError(
            "invalid_message",
            `a measurement of ${event.condition}, which was not asked for`,
          );
        }
        const measured = asMeasured(event, payload, condition, batch, blocks);
        store.record(measured);
        note(measured, measurements);
        settled(condition);
      },
    },
  );
  const cancel = (): void => {
    // The reply comes all the same, after the condition in hand; a lost worker shows there too.
    client.call("cancel", { target: id }).catch(() => undefined);
  };
  signal.addEventListener("abort", cancel, { once: true });
  try {
    const { result } = await reply;
    return result.seconds;
  } finally {
    signal.removeEventListener("abort", cancel);
  }
}

/** Modes whose rows `packRows` adds. */
export const modesOf = (sources: SourceRows): SourceMode[] =>
  SOURCE_MODES.filter((mode) => sources[mode] !== undefined);

/** The payload of `evaluate`: the blocks' ids, then of each mode with a source its rows for them. */
export function packRows(
  blocks: readonly number[],
  ids: readonly Int32Array[],
  sources: SourceRows,
): Uint8Array {
  return packIds([
    ...blocks.map((block) => ids[block] as Int32Array),
    ...modesOf(sources).flatMap((mode) => {
      const rows = sources[mode] as readonly Block[];
      return blocks.map((block) => (rows[block] as Block).ids);
    }),
  ]);
}

/** int32 little-endian  # [blocks, seq_len] */
export function packIds(blocks: readonly Int32Array[]): Uint8Array {
  return Buffer.concat(blocks.map((block) => Buffer.from(block.buffer, block.byteOffset, block.byteLength)));
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

function condemn(
  condition: number,
  batch: number,
  cause: SparkablateError,
  store: RunStore,
  measurements: Measurements,
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
