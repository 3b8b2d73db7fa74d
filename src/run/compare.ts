/** Texts with and without an ablation: every prompt continued greedily under every condition, in one load. */

import type { RunConfig } from "../config/load.ts";
import { asksFor } from "../config/modes.ts";
import {
  directionPaths,
  readDirectionFiles,
  requireWidth,
  sendDirections,
  unpickled,
} from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import { calibrate, loadModel, sendMeans, stages } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { planConditions } from "../plan/conditions.ts";
import { type Means, meanSites, sourceModes } from "../plan/needs.ts";
import {
  type Condition,
  type LoadedModel,
  MAX_PAYLOAD_BYTES,
  MAX_SLICE_CONDITIONS,
  type WireError,
} from "../protocol/messages.ts";
import { blockAt, cutBlocks, sampleBlocks } from "../samples/blocks.ts";
import { dateNotices, requireUnicode, type TemplateOptions, templateDay } from "../samples/prompts.ts";
import { bosNotices, bosOf, readText, shapeToLoad, type TextBytes, textName, tokenize } from "./prepare.ts";

/** What is continued, and for how long. */
export interface CompareOptions extends TemplateOptions {
  /** What is continued: one text or more. */
  readonly prompts: readonly string[];
  /** Most tokens a continuation; default 64. */
  readonly max_new_tokens?: number | undefined;
  /** Told every stage and notice as it comes. */
  readonly on?: OnEvent | undefined;
}

/** Every prompt continued under every condition. */
export interface Comparison {
  /** The model as the worker loaded it. */
  readonly model: LoadedModel;
  /** The baseline first. */
  readonly conditions: readonly Condition[];
  /** Most tokens a continuation. */
  readonly max_new_tokens: number;
  /** Whether each prompt was a user's message in the model's chat template. */
  readonly chat_template: boolean;
  /** What the chat template wrote for today; null: it writes no date. */
  readonly template_date: string | null;
  /** In the order in which they were given. */
  readonly prompts: readonly ComparedPrompt[];
}

/** One prompt and its continuations. */
export interface ComparedPrompt {
  /** The text before the chat template, if any, was put around it. */
  readonly prompt: string;
  /** Length in tokens, special tokens and chat template included. */
  readonly prompt_tokens: number;
  /** One a condition, in their order: the baseline's first. */
  readonly texts: readonly ComparedText[];
}

/** One prompt continued under one condition. */
export interface ComparedText {
  /** Id, e.g. `L14.head[3,7].zero`. */
  readonly condition: string;
  /** The continuation, without the prompt. */
  readonly text: string;
  /** Token ids of the continuation, an end token included. */
  readonly ids: readonly number[];
  /** Whether the model ended the text itself. */
  readonly stopped: boolean;
  /** Time the worker computed. */
  readonly seconds: number;
  /** With the baseline's text; null where either of them failed. */
  readonly agreement: Agreement | null;
  /** Why it failed; null where it did not. */
  readonly error: WireError | null;
}

/** How far a text agrees with the baseline's. */
export interface Agreement {
  /** Whether both texts are the same, token by token, to the end. */
  readonly identical: boolean;
  /** How many tokens are the same before the first that differs. */
  readonly tokens: number;
  /** How many characters, of both texts as decoded, are the same before the first that differs. */
  readonly characters: number;
}

const MAX_NEW_TOKENS = 64;

/** @throws SparkablateError as planConditions; config_invalid for prompts that do not fit. */
export async function comparePrompts(
  client: Client,
  config: RunConfig,
  options: CompareOptions,
): Promise<Comparison> {
  const { prompts, max_new_tokens = MAX_NEW_TOKENS, on = () => undefined } = options;
  const day = templateDay(options);
  const payload = Buffer.concat(prompts.map((prompt) => Buffer.from(prompt)));
  checkPrompts(prompts, payload);
  const files = readDirectionFiles(directionPaths(config));
  const text = asksFor(config.ablation, "mean") ? readText(config.eval.calibration) : null;
  const directions = await unpickled(files, client);
  const loaded = await loadModel(client, config.model, shapeToLoad(config), on);
  on({ type: "loaded", model: loaded });
  requireWidth(directions, loaded.model_map);
  const { conditions, notices } = planConditions(config, loaded.model_map, directions);
  for (const message of notices) on({ type: "notice", message });
  const [sourced] = sourceModes(conditions);
  if (sourced !== undefined) {
    throw new SparkablateError(
      "config_invalid",
      `mode ${sourced} takes activations from other tokens at the same positions, and a text that is yet to be written has none; allowed: zero, mean`,
      { help: "Measure it with 'sparkablate run'." },
    );
  }
  if (conditions.length > MAX_SLICE_CONDITIONS) {
    throw new SparkablateError(
      "config_invalid",
      `${conditions.length} conditions are too many to compare; allowed: up to ${MAX_SLICE_CONDITIONS}, the baseline included`,
    );
  }
  await sendDirections(directions.values(), client);
  const means = await calibrated(client, config, text, loaded, conditions, on);
  if (means !== null) await sendMeans(client, means);

  const texts = prompts.map((): ComparedText[] => []);
  const forward = stages(on);
  const { result } = await client.call(
    "generate",
    {
      prompt_bytes: prompts.map((prompt) => Buffer.byteLength(prompt)),
      conditions,
      max_new_tokens,
      template_date: day,
      means_sha256: means?.sha256 ?? null,
    },
    {
      payload,
      onEvent(event, bytes) {
        if (event.type !== "generation") return forward(event);
        const { condition, prompt, text, stopped, seconds, error } = event;
        const ids = [...new Int32Array(new Uint8Array(bytes).buffer)];
        const made = texts[prompt];
        if (made === undefined || conditions[made.length]?.id !== condition) {
          throw new SparkablateError("invalid_message", `a text of ${condition}, which was not due`);
        }
        const agreement = made[0] === undefined ? null : agreementOf(made[0], { text, ids, error });
        made.push({ condition, text, ids, stopped, seconds, agreement, error });
      },
    },
  );
  const notes = [...result.notices, ...dateNotices(options, result.template_date)];
  for (const message of notes) on({ type: "notice", message });
  return {
    model: loaded,
    conditions,
    max_new_tokens,
    chat_template: day !== null,
    template_date: result.template_date,
    prompts: prompts.map((prompt, index) => ({
      prompt,
      prompt_tokens: result.prompt_tokens[index] ?? 0,
      texts: texts[index] ?? [],
    })),
  };
}

function checkPrompts(prompts: readonly string[], payload: Uint8Array): void {
  if (prompts.length === 0)
    throw new SparkablateError("config_invalid", "there is no prompt: give at least one");
  if (prompts.some((prompt) => prompt === "")) {
    throw new SparkablateError("config_invalid", "a prompt is empty: give at least one character");
  }
  requireUnicode(prompts, "prompt");
  if (payload.length > MAX_PAYLOAD_BYTES) {
    throw new SparkablateError(
      "config_invalid",
      `the prompts have ${payload.length} bytes; allowed: up to ${MAX_PAYLOAD_BYTES}`,
    );
  }
}

/** The means that `mode: mean` uses, over a sample of the calibration text. */
async function calibrated(
  client: Client,
  { eval: settings }: RunConfig,
  text: TextBytes | null,
  loaded: LoadedModel,
  conditions: readonly Condition[],
  on: OnEvent,
): Promise<Means | null> {
  const sites = meanSites(conditions);
  if (sites.length === 0) return null;
  const { calibration, seq_len, batch_size, calibration_batches, add_bos, seed } = settings;
  if (calibration === null) {
    throw new SparkablateError(
      "config_invalid",
      "eval.calibration is missing: mode mean needs a text for its means; allowed: a .txt path, a dataset",
    );
  }
  const { ids, notices = [] } = await tokenize(client, calibration, text, on);
  for (const message of [...bosNotices(add_bos, loaded), ...notices]) on({ type: "notice", message });
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
  const blocks = sampleBlocks({ total, wanted, seed, batch_size }).map((index) => blockAt(ids, index, shape));
  return await calibrate(client, sites, blocks, { seq_len, batch_size }, on);
}

type Generated = Pick<ComparedText, "text" | "ids" | "error">;

function agreementOf(baseline: Generated, edited: Generated): Agreement | null {
  if (baseline.error !== null || edited.error !== null) return null;
  const tokens = commonLength(baseline.ids, edited.ids);
  return {
    identical: tokens === baseline.ids.length && tokens === edited.ids.length,
    tokens,
    characters: commonLength([...baseline.text], [...edited.text]),
  };
}

function commonLength<T>(a: readonly T[], b: readonly T[]): number {
  const at = a.findIndex((value, index) => value !== b[index]);
  return at < 0 ? a.length : at;
}
