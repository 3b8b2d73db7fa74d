/** What a worker does before it measures: load, tokenise, calibrate. Shared by every command that needs a model. */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import type { RunConfig } from "./config.ts";
import {
  type Block,
  type ChosenBlocks,
  chooseBlocks,
  cutBlocks,
  disjoint,
  MAX_TEXT_TOKENS,
  shuffled,
  type Text,
} from "./corpus.ts";
import { SparkablateError } from "./errors.ts";
import type { OnEvent } from "./events.ts";
import { type ChosenItems, checkLengths, chooseItems, decodeItems } from "./items.ts";
import type { Client } from "./link/client.ts";
import { packIds } from "./measuring.ts";
import {
  type Condition,
  type Event,
  type LoadedModel,
  MAX_PAYLOAD_BYTES,
  type MeanSite,
  type ModelConfig,
} from "./protocol.ts";
import { sha256 } from "./store/fingerprint.ts";
import type { Means } from "./store/sqlite.ts";
import { readTask, type Task } from "./tasks.ts";

export type TextSource = NonNullable<RunConfig["eval"]["dataset"]>;

export interface BatchShape {
  readonly seq_len: number;
  readonly batch_size: number;
}

/** A task's items are as long as they are once the tokenizer is there; until then nothing is asked of the shape. */
const SHORTEST_ROW = 2;

/** For what a model is loaded at first. */
export const shapeToLoad = ({ eval: { task, seq_len, batch_size } }: RunConfig): BatchShape => ({
  batch_size,
  seq_len: task === null ? seq_len : SHORTEST_ROW,
});

export const textName = (source: TextSource): string =>
  typeof source === "string"
    ? basename(source)
    : [source.path, source.config, source.split].filter((part) => part !== null).join(" ");

/** A `.txt` file's bytes; null for a dataset, which the worker loads. */
export const readText = (source: TextSource | null): Buffer | null =>
  typeof source === "string" ? readFileSync(source) : null;

/** Hands a request's progress and log events on. */
export function stages(on: OnEvent): (event: Event) => void {
  return (event) => {
    if (event.type === "progress") {
      const { stage, done, total, unit } = event;
      on({ type: "stage", stage, done, total, unit });
    } else if (event.type === "log") on({ type: "notice", message: event.message });
  };
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

/** @param bytes what `readText` gave. */
export async function tokenize(
  client: Client,
  source: TextSource,
  bytes: Buffer | null,
  on: OnEvent,
): Promise<Text> {
  const name = textName(source);
  const payload = bytes === null ? undefined : fitting(bytes);
  const tokenized = await client.call(
    "tokenize",
    { dataset: typeof source === "string" ? null : source, max_tokens: MAX_TEXT_TOKENS },
    { ...(payload && { payload }), onEvent: stages(on) },
  );
  if (tokenized.result.truncated || payload?.length !== bytes?.length) {
    on({
      type: "notice",
      message: `${name} is too long; its first ${tokenized.result.tokens} tokens are used`,
    });
  }
  return { name, ids: new Int32Array(new Uint8Array(tokenized.payload).buffer) };
}

/** What a config's texts hold: what `readText` gave of them, or its task. */
export interface TextInputs {
  readonly evaluation: Buffer | null;
  readonly calibration: Buffer | null;
  readonly task: Task | null;
}

/** Reads the files that a config's `eval` section names. Throws what `readTask` does. */
export function readTexts({ eval: { dataset, calibration, task } }: RunConfig): TextInputs {
  return {
    evaluation: readText(dataset),
    calibration: readText(calibration),
    task: task === null ? null : readTask(task),
  };
}

/** What a config evaluates, as a person knows it. */
export const evaluatedName = ({ dataset, task }: RunConfig["eval"]): string =>
  dataset === null ? basename(task ?? "") : textName(dataset);

/**
 * The blocks of a run, or the items: the same config, model and texts give the same ones.
 * @param needsMeans whether calibration blocks are wanted.
 */
export async function chooseTexts(
  client: Client,
  { eval: settings }: RunConfig,
  inputs: TextInputs,
  loaded: LoadedModel,
  needsMeans: boolean,
  on: OnEvent,
): Promise<ChosenBlocks | ChosenItems> {
  const { seq_len, batch_size, max_batches, skip_batches, calibration_batches, add_bos, seed } = settings;
  const bos = (add_bos === "auto" ? loaded.adds_bos : add_bos) ? loaded.bos_token_id : null;
  if (add_bos === true && bos === null) {
    throw new SparkablateError(
      "config_invalid",
      "eval.add_bos: true, but the tokenizer has no BOS token; allowed: auto, false",
    );
  }
  if (settings.dataset === null)
    return await chooseOfTask(client, settings, inputs, loaded, bos, needsMeans, on);
  const evaluation = await tokenize(client, settings.dataset, inputs.evaluation, on);
  const calibration =
    needsMeans && settings.calibration !== null
      ? await tokenize(client, settings.calibration, inputs.calibration, on)
      : null;
  return chooseBlocks({
    evaluation,
    calibration,
    seq_len,
    bos,
    seed,
    batch_size,
    max_batches,
    skip_batches,
    calibration_batches: needsMeans ? calibration_batches : 0,
  });
}

/** Evaluation items, and calibration rows out of the other items or of a text. */
async function chooseOfTask(
  client: Client,
  settings: RunConfig["eval"],
  { task, calibration: bytes }: TextInputs,
  { model_map }: LoadedModel,
  bos: number | null,
  needsMeans: boolean,
  on: OnEvent,
): Promise<ChosenItems> {
  if (task === null) throw new SparkablateError("internal", "neither a text nor a task was read");
  const { seq_len, batch_size, calibration_batches, seed } = settings;
  const { result, payload } = await client.call(
    "tokenize_task",
    { name: task.name, max_tokens: MAX_TEXT_TOKENS },
    { payload: Buffer.from(JSON.stringify(task.items)), onEvent: stages(on) },
  );
  const encoded = decodeItems(payload, result.items, bos);
  checkLengths(task, encoded, [
    { tokens: model_map.max_positions, what: "the model's positions" },
    { tokens: seq_len, what: "eval.seq_len" },
  ]);
  const ofItems = needsMeans && settings.calibration === null;
  const chosen = chooseItems({
    ...settings,
    task,
    encoded,
    calibration_batches: ofItems ? calibration_batches : 0,
  });
  const notices = [...result.notices, ...chosen.notices];
  if (ofItems || !needsMeans || settings.calibration === null) return { ...chosen, notices };
  const text = await tokenize(client, settings.calibration, bytes, on);
  const shape = { seq_len, bos };
  const { blocks } = cutBlocks(text.ids, shape);
  const calibration = disjoint(
    text,
    shuffled(blocks, seed),
    calibration_batches * batch_size,
    chosen.evaluation.map(({ ids, answer }) => ({ ids: ids.subarray(0, answer.end) })),
    shape,
    notices,
  );
  return { ...chosen, calibration, notices };
}

/** The beginning of a text, up to the last line that fits into one payload. */
function fitting(bytes: Buffer): Buffer {
  if (bytes.length <= MAX_PAYLOAD_BYTES) return bytes;
  return bytes.subarray(0, bytes.lastIndexOf("\n", MAX_PAYLOAD_BYTES - 1) + 1);
}

/** The sites whose mean some condition needs, each once, in canonical order. */
export function meanSites(conditions: readonly Condition[]): Omit<MeanSite, "width">[] {
  const sites = new Map<string, Omit<MeanSite, "width">>();
  for (const { interventions } of conditions) {
    for (const one of interventions) {
      if (!("mode" in one) || one.mode !== "mean") continue;
      const kind = one.kind === "kv_group" ? "head" : one.kind;
      const site = { kind, layer: one.layer, positions: one.positions };
      sites.set(JSON.stringify(site), site);
    }
  }
  return [...sites.values()];
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
