/** A stored condition and its baseline measured again, token by token: what does not repeat the stored bits is refused. */

import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import type { Client } from "../link/client.ts";
import type { Worker } from "../link/worker.ts";
import { batches } from "../plan/slices.ts";
import type { Answer } from "../protocol/messages.ts";
import { packIds } from "../samples/bytes.ts";
import type { RunStore } from "../store/sqlite.ts";
import type { TokenBlock, TokenNll } from "../store/tokens.ts";
import { evaluation, type Measurable } from "./evaluate.ts";

/** Lost sessions and connections in a row. */
const MOST_LOSSES_IN_A_ROW = 3;
/** Tokens asked for at once. */
const TEXTS_A_CALL = 4096;

export interface TokenMeasuring extends Measurable {
  /** Whose values are wanted; the baseline's come with them. */
  readonly condition: number;
}

export interface TokenHooks {
  readonly on: OnEvent;
  /** Brings the worker back as it was. */
  readonly recover: (error: SparkablateError) => Promise<void>;
}

/**
 * Keeps the NLL of every predicted token, on the blocks that the run has measured, as far as it is not kept yet.
 * @throws SparkablateError measurement_conflict where the sums are not those of the run, interrupted.
 */
export async function measureTokens(
  input: TokenMeasuring,
  worker: Worker,
  store: RunStore,
  { on, recover }: TokenHooks,
  signal: AbortSignal | undefined,
): Promise<void> {
  const wanted = [0, input.condition].map((ordinal) => ({
    ordinal,
    sums: store.nllSums(ordinal),
    kept: store.tokens((tables) => tables.nll(ordinal)),
  }));
  const measured = batches(input.blocks.length, input.shape.batch_size).filter((blocks) =>
    wanted.every(({ sums }) => blocks.every((block) => sums.has(block))),
  );
  let losses = 0;
  for (let at = 0; at < measured.length; ) {
    if (signal?.aborted) throw new SparkablateError("interrupted", "interrupted");
    const blocks = measured[at] as number[];
    const lacking = wanted.filter(({ kept }) => !blocks.every((block) => kept.has(block)));
    try {
      if (lacking.length > 0) await measureBatch(input, blocks, lacking, worker.client, store);
      losses = 0;
      on({ type: "stage", stage: "values a token", done: ++at, total: measured.length, unit: "batches" });
    } catch (error) {
      if (!(error instanceof SparkablateError) || !error.retryable || signal?.aborted) throw error;
      if (++losses > MOST_LOSSES_IN_A_ROW) throw error;
      await recover(error);
    }
  }
  await keepTexts(worker.client, store);
}

interface Wanted {
  readonly ordinal: number;
  /** Stored sums, by block. */
  readonly sums: ReadonlyMap<number, number>;
}

async function measureBatch(
  input: TokenMeasuring,
  blocks: readonly number[],
  wanted: readonly Wanted[],
  client: Client,
  store: RunStore,
): Promise<void> {
  const { conditions, blocks: ids, answers, shape } = input;
  const { seq_len } = shape;
  const ordinals = wanted.map(({ ordinal }) => ordinal);
  const { fields, payload: rows } = evaluation(input, blocks, ordinals, ["nll"]);
  const values: TokenNll[] = [];
  await client.call(
    "evaluate",
    { ...fields, per_token: true },
    {
      payload: rows,
      onEvent(event, payload) {
        if (event.type !== "measurement") return;
        const { condition: id, error, columns } = event;
        if (error !== null) throw new SparkablateError(error.code, `${id}: ${error.message}`);
        const one = wanted.find(({ ordinal }) => conditions[ordinal]?.id === id);
        const bytes = blocks.length * (8 + 4 * (seq_len - 1));
        if (one === undefined || columns.join() !== "nll" || payload.length !== bytes)
          throw new SparkablateError(
            "invalid_message",
            `${payload.length} bytes of ${columns.join()} for ${id}`,
          );
        const { buffer } = new Uint8Array(payload);
        for (const [row, sum] of new Float64Array(buffer, 0, blocks.length).entries()) {
          const block = blocks[row] as number;
          requireSame(id, block, sum, one.sums.get(block));
          const nll = new Float32Array(buffer, 8 * blocks.length + 4 * row * (seq_len - 1), seq_len - 1);
          const { first, last } = predicted(block, answers, seq_len);
          values.push({ condition: one.ordinal, block, nll: nll.subarray(first - 1, last) });
        }
      },
    },
  );
  if (values.length !== wanted.length * blocks.length)
    throw new SparkablateError(
      "invalid_message",
      `${values.length} measurements came of blocks ${blocks.join()}`,
    );
  const tokens = blocks.map((block): [number, TokenBlock] => {
    const { first, last } = predicted(block, answers, seq_len);
    return [block, { first, ids: (ids[block] as Int32Array).subarray(0, last + 1) }];
  });
  store.tokens((tables) => tables.keep(new Map(tokens), values));
}

/** Positions of the first and the last predicted token. */
function predicted(block: number, answers: readonly Answer[] | null, seq_len: number) {
  const answer = answers?.[block];
  return answer === undefined
    ? { first: 1, last: seq_len - 1 }
    : { first: answer.begin, last: answer.end - 1 };
}

function requireSame(id: string, block: number, sum: number, stored: number | undefined): void {
  if (sum === stored) return;
  throw new SparkablateError(
    "measurement_conflict",
    `${id}, block ${block}: measured again, its NLL is ${sum}, but the run holds ${stored}; the token values would not add up to the run's numbers, so none of this batch is kept`,
    {
      help: "Use the machine, package versions and threads that made the run. If the condition was measured in smaller pieces ('degraded'), free some memory and run the sweep again.",
    },
  );
}

/** Asks for the tokens that the kept blocks hold and that are not known yet. */
async function keepTexts(client: Client, store: RunStore): Promise<void> {
  const [blocks, known] = store.tokens((tables) => [tables.blocks(), tables.texts()] as const);
  const ids = new Set<number>();
  for (const block of blocks.values()) for (const id of block.ids) if (!known.has(id)) ids.add(id);
  const unknown = Int32Array.from(ids);
  for (let from = 0; from < unknown.length; from += TEXTS_A_CALL) {
    const asked = unknown.subarray(from, from + TEXTS_A_CALL);
    const { payload } = await client.call("token_bytes", {}, { payload: packIds([asked]) });
    store.tokens((tables) => tables.keepTexts(textsOf(asked, payload)));
  }
}

function textsOf(ids: Int32Array, payload: Uint8Array): Map<number, Uint8Array> {
  const bytes = new Uint8Array(payload);
  const lengths = bytes.length < 4 * ids.length ? [] : new Int32Array(bytes.buffer, 0, ids.length);
  let from = 4 * ids.length;
  const texts = new Map<number, Uint8Array>();
  for (const [index, length] of lengths.entries()) {
    texts.set(ids[index] as number, bytes.slice(from, from + length));
    from += length;
  }
  if (texts.size === 0 || from !== bytes.length)
    throw new SparkablateError(
      "invalid_message",
      `token_bytes: ${bytes.length} bytes for ${ids.length} tokens`,
    );
  return texts;
}
