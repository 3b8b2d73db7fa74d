/** First-order effects of one batch, as a worker gives them. */
import { SparkablateError } from "../errors.ts";
import { DONOR_MODES, type DonorMode } from "../protocol/catalog.ts";
import type { Answer, Condition, Event, Intervention, Request, WholeSite } from "../protocol/messages.ts";
import { packIds } from "../samples/bytes.ts";
import { untilCancelled } from "./calls.ts";
import type { Client } from "./client.ts";

/** What is asked for of one batch. */
export interface Attributing {
  /** Token ids of each block  # each [seq_len] */
  readonly blocks: readonly Int32Array[];
  /** Mode → a donor's ids for every block; absent: no condition takes one. */
  readonly donors?: Readonly<Partial<Record<DonorMode, readonly Int32Array[]>>>;
  /** Of a task: where each block, an item, has its answer; absent: every token but the first is predicted. */
  readonly answers?: readonly Answer[];
  /** What the conditions are on top of; absent: nothing. */
  readonly given?: readonly Intervention[];
  /** Absent: none. */
  readonly conditions?: readonly Condition[];
  /** Of these every part alone, in every layer that offers it; absent: none. */
  readonly sites?: readonly WholeSite[];
  /** Default: nll. */
  readonly metric?: Request<"attribute">["metric"];
  /** Which means `mode: mean` uses, as sent before; absent: no edit needs them. */
  readonly meansSha256?: string;
}

/** First-order effects: of the metric's sum over a block's predicted tokens; of a task's item, of its own value. */
export interface Attributions {
  /** By condition  # each [blocks] */
  readonly conditions: readonly Float64Array[];
  /**
   * By site: layer → of each part alone, summed over the blocks  # [parts], of a site without parts [1]
   *
   * Layers that do not offer it are absent. NaN: given edits cover the part.
   */
  readonly sites: readonly ReadonlyMap<number, Float64Array>[];
}

/**
 * One pass with gradients and one back, however much is asked for.
 * @throws SparkablateError what the worker finds wrong with a condition; hook_failed where nothing has a first-order
 *   effect; out_of_memory; interrupted once the signal is given.
 */
export async function attribute(
  client: Client,
  asked: Attributing,
  signal?: AbortSignal,
): Promise<Attributions> {
  const { blocks, donors = {}, answers, given, conditions = [], sites = [], metric = "nll" } = asked;
  const modes = DONOR_MODES.filter((mode) => donors[mode] !== undefined);
  const rows = modes.flatMap((mode) => donors[mode] as readonly Int32Array[]);
  const found = sites.map(() => new Map<number, Float64Array>());
  const sent = client.start(
    "attribute",
    {
      seq_len: blocks[0]?.length ?? 0,
      blocks: blocks.length,
      answers: answers === undefined ? null : [...answers],
      donors: modes,
      ...(given !== undefined && given.length > 0 && { given: [...given] }),
      conditions: conditions.map(({ id, interventions }) => ({ id, interventions })),
      sites: [...sites],
      metric,
      means_sha256: asked.meansSha256 ?? null,
    },
    {
      payload: packIds([...blocks, ...rows]),
      onEvent: (event, payload) => {
        if (event.type === "attribution") note(event, payload, found);
      },
    },
  );
  const { payload } = await untilCancelled(client, sent, signal);
  const values = numbers(payload, conditions.length * blocks.length);
  return {
    conditions: conditions.map((_, at) => values.subarray(at * blocks.length, (at + 1) * blocks.length)),
    sites: found,
  };
}

function note(
  { site, layer, parts }: Event<"attribution">,
  payload: Uint8Array,
  found: readonly Map<number, Float64Array>[],
): void {
  const layers = found[site];
  if (layers === undefined) {
    throw new SparkablateError("invalid_message", `attributions of site ${site}, which was not asked for`);
  }
  layers.set(layer, numbers(payload, parts));
}

function numbers(payload: Uint8Array, count: number): Float64Array {
  if (payload.length !== count * Float64Array.BYTES_PER_ELEMENT) {
    throw new SparkablateError("invalid_message", `${payload.length} bytes are no ${count} attributions`);
  }
  // Copied, so that it is aligned for float64.
  return new Float64Array(new Uint8Array(payload).buffer);
}
