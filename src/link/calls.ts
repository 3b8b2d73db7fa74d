/** What every command asks of a worker before it measures: a loaded model, calibrated means. */
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import type { Means } from "../plan/needs.ts";
import type { Event, LoadedModel, MeanSite, ModelConfig } from "../protocol/messages.ts";
import { packIds } from "../samples/bytes.ts";
import type { Block } from "../samples/sample.ts";
import type { Client } from "./client.ts";

export interface BatchShape {
  readonly seq_len: number;
  readonly batch_size: number;
}

/** Hands a request's progress and log events on. */
export function stages(on: OnEvent): (event: Event) => void {
  return (event) => {
    if (event.type === "progress") {
      const { stage, done, total, unit } = event;
      on({ type: "stage", stage, done, total, unit });
    } else if (event.type === "log") on({ type: "notice", message: event.message });
  };
}

/** The reply to a request that aborting cancels; it comes all the same, and says what became of the work. */
export async function untilCancelled<T>(
  client: Client,
  { id, reply }: { readonly id: number; readonly reply: Promise<T> },
  signal: AbortSignal | undefined,
): Promise<T> {
  const cancel = (): void => {
    // A worker that is lost shows in the reply.
    client.call("cancel", { target: id }).catch(() => undefined);
  };
  signal?.addEventListener("abort", cancel, { once: true });
  if (signal?.aborted) cancel();
  try {
    return await reply;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

export async function loadModel(
  client: Client,
  model: ModelConfig,
  { seq_len, batch_size }: BatchShape,
  on: OnEvent,
  may_offload = false,
): Promise<LoadedModel> {
  const fields = { model, seq_len, batch_size, may_offload };
  const { result } = await client.call("load", fields, { onEvent: stages(on) });
  return result;
}

/** The sites' means over the blocks, or over items of any length; null where there is no site. */
export async function calibrate(
  client: Client,
  sites: Omit<MeanSite, "width">[],
  blocks: readonly Block[],
  { seq_len, batch_size }: BatchShape,
  on: OnEvent,
): Promise<Means | null> {
  if (sites.length === 0) return null;
  const lengths = blocks.map(({ ids }) => ids.length);
  const { result, payload } = await client.call(
    "calibrate",
    { seq_len, lengths: lengths.every((length) => length === seq_len) ? null : lengths, batch_size, sites },
    { payload: packIds(blocks.map(({ ids }) => ids)), onEvent: stages(on) },
  );
  if (sha256(payload) !== result.sha256) {
    throw new SparkablateError("invalid_message", "calibrate: the means' sha256 does not fit them");
  }
  return { sha256: result.sha256, sites: result.sites, vectors: payload };
}

export async function sendMeans(client: Client, { sha256, sites, vectors }: Means): Promise<void> {
  await client.call("put", { kind: "means", sha256, sites: [...sites] }, { payload: vectors });
}
