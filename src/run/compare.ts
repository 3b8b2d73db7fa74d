/** Texts with and without an ablation: every prompt continued greedily under every condition, in one load. */

import { requireMeeting } from "../config/features.ts";
import type { RunConfig } from "../config/load.ts";
import { asksFor } from "../config/modes.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { stages } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { planConditions } from "../plan/conditions.ts";
import { meanSites } from "../plan/needs.ts";
import {
  type Condition,
  type Event,
  type LoadedModel,
  MAX_SLICE_CONDITIONS,
  type WireError,
} from "../protocol/messages.ts";
import {
  dateNotices,
  promptBytes,
  requireUnicode,
  type TemplateOptions,
  templateDay,
} from "../samples/prompts.ts";
import type { Block } from "../samples/sample.ts";
import { readDirections, readText } from "./inputs.ts";
import { type Asked, calibrated, prepare } from "./prepare.ts";
import { calibrationSample } from "./texts.ts";

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
  requireMeeting(config, "compare");
  checkPrompts(prompts);
  const payload = promptBytes(prompts);
  const directions = readDirections(config);
  const text = asksFor(config.ablation, "mean") ? readText(config.eval.calibration) : null;
  const asked: Asked<{ calibration: Block[] }> = {
    config,
    directions,
    plan(loaded, vectors) {
      const plan = planConditions(config, loaded.model_map, vectors);
      notify(on, [...loaded.notices, ...plan.notices]);
      requireFew(plan.conditions);
      return plan;
    },
    async choose(loaded, conditions) {
      if (meanSites(conditions).length === 0) return { calibration: [] };
      return { calibration: await calibrationSample(client, config, text, loaded, on) };
    },
  };
  const prepared = await prepare(client, asked, on);
  const means = await calibrated(client, prepared, config.eval, on);
  const { loaded, plan } = prepared;
  const { conditions } = plan;
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
      onEvent: (event, ids) =>
        event.type === "generation" ? keep(event, ids, conditions, texts) : forward(event),
    },
  );
  notify(on, [...result.notices, ...dateNotices(options, result.template_date)]);
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

/** @throws SparkablateError config_invalid for more than one request can name. */
function requireFew({ length }: readonly Condition[]): void {
  if (length <= MAX_SLICE_CONDITIONS) return;
  throw new SparkablateError(
    "config_invalid",
    `${length} conditions are too many to compare; allowed: up to ${MAX_SLICE_CONDITIONS}, the baseline included`,
  );
}

/** Puts a text that the worker sent behind those of its prompt. */
function keep(
  { condition, prompt, text, stopped, seconds, error }: Event<"generation">,
  bytes: Uint8Array,
  conditions: readonly Condition[],
  texts: readonly ComparedText[][],
): void {
  const ids = [...new Int32Array(new Uint8Array(bytes).buffer)];
  const made = texts[prompt];
  if (made === undefined || conditions[made.length]?.id !== condition) {
    throw new SparkablateError("invalid_message", `a text of ${condition}, which was not due`);
  }
  const agreement = made[0] === undefined ? null : agreementOf(made[0], { text, ids, error });
  made.push({ condition, text, ids, stopped, seconds, agreement, error });
}

function checkPrompts(prompts: readonly string[]): void {
  if (prompts.length === 0)
    throw new SparkablateError("config_invalid", "there is no prompt: give at least one");
  if (prompts.some((prompt) => prompt === "")) {
    throw new SparkablateError("config_invalid", "a prompt is empty: give at least one character");
  }
  requireUnicode(prompts, "prompt");
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
