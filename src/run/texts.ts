/** Texts and tasks → tokens → the blocks or items that are measured, and those that means are taken over. */

import { basename } from "node:path";
import type { RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { stages } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import type { Needs } from "../plan/needs.ts";
import type { LoadedModel } from "../protocol/messages.ts";
import {
  blockAt,
  type ChosenBlocks,
  chooseBlocks,
  chooseInTurn,
  cutBlocks,
  disjoint,
  MAX_TEXT_TOKENS,
  sampleBlocks,
  shuffled,
  type Text,
} from "../samples/blocks.ts";
import { donorItems, donorRow, requireAligned } from "../samples/donors.ts";
import { type ChosenItems, checkLengths, chooseItems, decodeItems } from "../samples/items.ts";
import type { Block, EncodedItem } from "../samples/sample.ts";
import type { TaskItem } from "../samples/task-file.ts";
import type { TextBytes, TextInputs, TextSource } from "./inputs.ts";

export const textName = (source: TextSource): string =>
  typeof source === "string"
    ? basename(source)
    : [source.path, source.config, source.split].filter((part) => part !== null).join(" ");

/** @param text what `readText` gave. */
export async function tokenize(
  client: Client,
  source: TextSource,
  text: TextBytes | null,
  on: OnEvent,
): Promise<Text> {
  const name = textName(source);
  const { result, payload } = await client.call(
    "tokenize",
    { dataset: typeof source === "string" ? null : source, max_tokens: MAX_TEXT_TOKENS },
    { ...(text && { payload: text.bytes }), onEvent: stages(on) },
  );
  if (result.truncated || text?.more === true) {
    on({ type: "notice", message: `${name} is too long; its first ${result.tokens} tokens are used` });
  }
  const notices = [...(text === null ? [] : crlfNotices(name, text.bytes)), ...result.notices];
  return { name, notices, ids: new Int32Array(new Uint8Array(payload).buffer) };
}

/** What a person may not see in an editor: the line ends of another system are tokens of their own. */
function crlfNotices(name: string, bytes: Buffer): string[] {
  let lines = 0;
  for (let at = bytes.indexOf("\r\n"); at >= 0; at = bytes.indexOf("\r\n", at + 2)) lines++;
  if (lines === 0) return [];
  return [
    `${name}: ${lines} lines end with CR LF; the text is used as it is, so every CR counts (tr -d '\\r' removes them)`,
  ];
}

/** What a config evaluates, as a person knows it. */
export const evaluatedName = ({ dataset, also = [], task }: RunConfig["eval"]): string =>
  dataset === null ? basename(task ?? "") : [dataset, ...also].map(textName).join(" + ");

/**
 * The blocks of a run, or the items: the same config, model and texts give the same ones.
 */
export async function chooseTexts(
  client: Client,
  { eval: settings }: RunConfig,
  inputs: TextInputs,
  loaded: LoadedModel,
  needs: Needs,
  on: OnEvent,
): Promise<ChosenBlocks | ChosenItems> {
  const { seq_len, batch_size, max_batches, skip_batches, calibration_batches, add_bos, seed } = settings;
  const bos = bosOf(add_bos, loaded);
  if (add_bos === true && bos === null) {
    throw new SparkablateError(
      "config_invalid",
      "eval.add_bos: true, but the tokenizer has no BOS token; allowed: auto, false",
    );
  }
  const notices = bosNotices(add_bos, loaded);
  if (settings.dataset === null) {
    const items = await chooseOfTask(client, settings, inputs, loaded, bos, needs, on);
    return { ...items, notices: [...notices, ...items.notices] };
  }
  requireDonors(inputs, needs);
  const resample = needs.donors.includes("resample");
  const evaluation = await tokenize(client, settings.dataset, inputs.evaluation, on);
  const others: Text[] = [];
  for (const [index, source] of (settings.also ?? []).entries())
    others.push(await tokenize(client, source, inputs.also[index] ?? null, on));
  const calibration =
    (needs.means || resample) && settings.calibration !== null
      ? await tokenize(client, settings.calibration, inputs.calibration, on)
      : null;
  const choice = {
    evaluation,
    calibration,
    seq_len,
    bos,
    seed,
    batch_size,
    max_batches,
    skip_batches,
    calibration_batches: needs.means ? calibration_batches : 0,
    resample,
  };
  const blocks = others.length === 0 ? chooseBlocks(choice) : chooseInTurn(choice, others);
  return { ...blocks, notices: [...notices, ...blocks.notices] };
}

/** Blocks of the calibration text where nothing is evaluated: a sample of all of it. */
export async function calibrationSample(
  client: Client,
  { eval: settings }: RunConfig,
  text: TextBytes | null,
  loaded: LoadedModel,
  on: OnEvent,
): Promise<Block[]> {
  const { calibration, seq_len, batch_size, calibration_batches, add_bos, seed } = settings;
  if (calibration === null) {
    throw new SparkablateError(
      "config_invalid",
      "eval.calibration is missing: mode mean needs a text for its means; allowed: a .txt path, a dataset",
    );
  }
  const { ids, notices = [] } = await tokenize(client, calibration, text, on);
  notify(on, [...bosNotices(add_bos, loaded), ...notices]);
  const shape = { seq_len, bos: bosOf(add_bos, loaded) };
  const total = cutBlocks(ids, shape).blocks;
  if (total === 0) {
    throw new SparkablateError(
      "text_too_short",
      `${textName(calibration)} has ${ids.length} tokens, less than one block of ${seq_len}`,
      { help: "Use a longer calibration text, or lower eval.seq_len." },
    );
  }
  const wanted = calibration_batches * batch_size;
  return sampleBlocks({ total, wanted, seed, batch_size }).map((index) => blockAt(ids, index, shape));
}

/** The token that stands before every block or item; null: none does. */
export const bosOf = (
  add_bos: RunConfig["eval"]["add_bos"],
  { adds_bos, bos_token_id }: LoadedModel,
): number | null => ((add_bos === "auto" ? adds_bos : add_bos) ? bos_token_id : null);

/** A model that was trained with BOS before every text gives other numbers without it, and nothing shows it. */
export const bosNotices = (
  add_bos: RunConfig["eval"]["add_bos"],
  { adds_bos, bos_token_id }: LoadedModel,
): string[] =>
  add_bos === "auto" && bos_token_id !== null && !adds_bos
    ? [
        `the tokenizer has a BOS token (id ${bos_token_id}) but does not put it before a text, so no block begins with it; set eval.add_bos: true if the model was trained with it`,
      ]
    : [];

/** A sweep of pairs learns from an earlier run which modes it has: the config cannot tell. */
function requireDonors({ source, task }: TextInputs, { donors }: Needs): void {
  if (!donors.includes("patch") || (source !== null && task !== null)) return;
  throw new SparkablateError("config_invalid", "mode patch has no donor: set ablation.source and eval.task");
}

/** Evaluation items, and calibration rows out of the other items or of a text. */
async function chooseOfTask(
  client: Client,
  settings: RunConfig["eval"],
  inputs: TextInputs,
  { model_map }: LoadedModel,
  bos: number | null,
  needs: Needs,
  on: OnEvent,
): Promise<ChosenItems> {
  requireDonors(inputs, needs);
  const { task, calibration: calibrationText } = inputs;
  if (task === null) throw new SparkablateError("internal", "neither a text nor a task was read");
  const { seq_len, batch_size, calibration_batches, seed } = settings;
  const { encoded, notices: tokenized } = await encodeItems(client, task.name, task.items, bos, on);
  checkLengths(task, encoded, [
    { tokens: model_map.max_positions, what: "the model's positions" },
    { tokens: seq_len, what: "eval.seq_len" },
  ]);
  const ofItems = needs.means && settings.calibration === null;
  const items = chooseItems({
    ...settings,
    task,
    encoded,
    calibration_batches: ofItems ? calibration_batches : 0,
    resample: needs.donors.includes("resample"),
  });
  const patch = needs.donors.includes("patch")
    ? await alignedRows(client, inputs, encoded, items, bos, on)
    : null;
  const chosen = patch === null ? items : { ...items, donors: { ...items.donors, patch } };
  const notices = [...tokenized, ...chosen.notices];
  if (ofItems || !needs.means || settings.calibration === null) return { ...chosen, notices };
  const text = await tokenize(client, settings.calibration, calibrationText, on);
  notices.push(...(text.notices ?? []));
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

async function encodeItems(
  client: Client,
  name: string,
  items: readonly TaskItem[],
  bos: number | null,
  on: OnEvent,
): Promise<{ encoded: EncodedItem[]; notices: readonly string[] }> {
  const { result, payload } = await client.call(
    "tokenize_task",
    { name, max_tokens: MAX_TEXT_TOKENS },
    { payload: Buffer.from(JSON.stringify(items)), onEvent: stages(on) },
  );
  return { encoded: decodeItems(payload, result.items, bos), notices: result.notices };
}

/** The donor for each chosen item: the one of the same line. */
async function alignedRows(
  client: Client,
  { task, source }: TextInputs,
  encoded: readonly EncodedItem[],
  { evaluation, seq_len }: ChosenItems,
  bos: number | null,
  on: OnEvent,
): Promise<Block[]> {
  if (task === null || source === null) throw new SparkablateError("internal", "no source was read");
  const { encoded: theirs } = await encodeItems(client, source.name, donorItems(source, task), bos, on);
  requireAligned(source.name, task.name, [theirs, encoded]);
  return evaluation.map(({ index }) => donorRow(index, (theirs[index] as EncodedItem).ids, seq_len));
}
