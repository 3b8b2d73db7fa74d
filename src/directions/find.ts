/** A direction that tells two sets of prompts apart: found by the worker, chosen and written here. */

import { basename } from "node:path";
import { readTextFile } from "../config/text-file.ts";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { loadModel, stages } from "../link/calls.ts";
import type { Client, Fields } from "../link/client.ts";
import {
  type DirectionCandidate,
  type LoadedModel,
  MAX_PAYLOAD_BYTES,
  type ModelConfig,
  type Result,
} from "../protocol/messages.ts";
import {
  dateNotices,
  promptBytes,
  requireUnicode,
  type TemplateOptions,
  templateDay,
} from "../samples/prompts.ts";
import { VERSION } from "../version.ts";
import { choose, DEFAULT_MAX_KL, RULE, type ScoreEstimate, withInterval } from "./choice.ts";
import { type Direction, directionBytes } from "./file.ts";

/** Fewer a side say nothing about a contrast. */
const MIN_PROMPTS = 8;
const HELD_OUT = 1 / 3;
const RESAMPLES = 100;
/** The load check's shape: prompts have all sorts of lengths. */
const SHAPE = { seq_len: 16, batch_size: 1 };

/** One side of a contrast. */
export interface PromptSet {
  /** What messages call these prompts: a file's name. */
  readonly name: string;
  /** At least 8, all different. */
  readonly prompts: readonly string[];
  /** Digest of the file, or of the prompts joined by line feeds. */
  readonly sha256: string;
}

/** Texts of one token each, with which the model may go on. */
export interface AnswerTokens {
  /** Tokens that answer a positive prompt. */
  readonly positive: readonly string[];
  /** Tokens that answer a negative prompt. */
  readonly negative: readonly string[];
}

/** What tells the two sides apart, and how it is searched. */
export interface DirectionOptions extends TemplateOptions {
  /** The side that the direction points to. */
  readonly positive: PromptSet;
  /** The side that it points away from. */
  readonly negative: PromptSet;
  /** Token positions counted from each prompt's end; default [1], the last. */
  readonly end_positions?: readonly number[] | undefined;
  /** One token each. Without them the contrast is read from the last layer's stream. */
  readonly answer_tokens?: AnswerTokens | undefined;
  /** Nats that projecting it out may cost at the negative prompts' next token; default 0.2. */
  readonly max_kl?: number | undefined;
  /** Share of each side that scores instead of being averaged; default 1/3. */
  readonly held_out?: number | undefined;
  /** Bootstrap samples; default 100. */
  readonly resamples?: number | undefined;
  /** Fixes the held-out prompts, the random controls and the bootstrap samples; default 0. */
  readonly seed?: number | undefined;
  /** Told every stage and notice as it comes. */
  readonly on?: OnEvent | undefined;
}

type Scored<T> = {
  readonly [K in keyof T]: T[K] extends DirectionCandidate["kl"]
    ? ScoreEstimate
    : T[K] extends DirectionCandidate["kl"] | null
      ? ScoreEstimate | null
      : T[K];
};
type ScoreNames = "contrast" | "lowered" | "raised" | "kl";

/** The scores of one direction; null where there is nothing to read the contrast from. */
export interface Scores extends Scored<Pick<DirectionCandidate, ScoreNames>> {}

/** A direction that was looked at, with its scores on the held-out prompts. */
export interface ScoredCandidate extends Scored<Omit<DirectionCandidate, "random">> {
  /** The same scores of a random direction of the same norm at the same place. */
  readonly random: Scores;
}

/** All that is known of the search: what the table file holds. */
export interface DirectionTable {
  /** Version of sparkablate. */
  readonly version: string;
  /** The model in which the direction was searched. */
  readonly model: Pick<
    LoadedModel,
    "source" | "revision" | "weights_sha256" | "tokenizer_sha256" | "numerics"
  >;
  /** Mean of the positive side's activations minus the negative side's, in float64. */
  readonly method: "difference_of_means";
  /** The side that a direction points to. */
  readonly positive: SideFacts;
  /** The side that it points away from. */
  readonly negative: SideFacts;
  /** Whether each prompt was a user's message in the model's chat template. */
  readonly chat_template: boolean;
  /** What the chat template wrote for today; null: it writes no date. */
  readonly template_date: string | null;
  /** Token positions counted from each prompt's end. */
  readonly end_positions: readonly number[];
  /** Whose log-odds are the contrast; null: it is read from the last layer's stream. */
  readonly answer_tokens: AnswerTokens | null;
  /** Fixes the held-out prompts, the random controls and the bootstrap samples. */
  readonly seed: number;
  /** Bootstrap samples. */
  readonly resamples: number;
  /** How the two sides are told apart: by the last layer's stream (separation), or by `answer_tokens`. */
  readonly contrast: Result<"find_direction">["contrast"];
  /** Unit of the scores contrast, lowered and raised. */
  readonly unit: string;
  /** In words: how the chosen candidate was chosen. */
  readonly rule: string;
  /** Nats; candidates that cost more are not chosen. */
  readonly max_kl: number;
  /** null: no candidate fits the rule. */
  readonly chosen: ChosenDirection | null;
  /** In order of layer and position. */
  readonly candidates: readonly ScoredCandidate[];
}

/** One side of a contrast, as the table file records it. */
export interface SideFacts {
  /** Name of the prompt file. */
  readonly name: string;
  /** Digest of the prompt file. */
  readonly sha256: string;
  /** Number of prompts, held-out ones included. */
  readonly prompts: number;
  /** Line numbers among the prompts, from 1: those that were scored and not averaged. */
  readonly held_out: readonly number[];
}

/** The candidate that the rule chose. */
export interface ChosenDirection {
  /** Whose stream it was found in, from 0. */
  readonly layer: number;
  /** Counted from the prompts' end; 1 is the last token. */
  readonly position: number;
  /** Length of the difference of means. */
  readonly norm: number;
  /** Digest of the unit vector's little-endian bytes. */
  readonly sha256: string;
  /** Whether its scores are clearly above those of random directions, by `choose` in directions/choice.ts. */
  readonly beyond_controls: boolean;
}

/** What a search gave. */
export interface FoundDirection {
  /** null: no candidate fits the rule. */
  readonly direction: Direction | null;
  /** The chosen direction as a safetensors file; null where there is none. */
  readonly file: Uint8Array | null;
  /** Every candidate with its scores, and what was searched in. */
  readonly table: DirectionTable;
}

/**
 * Prompts from a UTF-8 file, one a line; empty lines are left out.
 *
 * @throws SparkablateError input_missing where it cannot be read or holds none; config_invalid for what is no text.
 */
export function readPrompts(path: string): PromptSet {
  const { bytes, text } = readTextFile(path, "the prompts", MAX_PAYLOAD_BYTES);
  const prompts = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (prompts.length === 0)
    throw new SparkablateError("input_missing", `${path} holds no prompts: write one per line`);
  return { name: basename(path), prompts, sha256: sha256(bytes) };
}

/** @throws SparkablateError config_invalid: too few prompts, one of them twice, one that does not fit. */
export function checkSides(positive: PromptSet, negative: PromptSet): void {
  const seen = new Map<string, string>();
  for (const { name, prompts } of [positive, negative]) {
    if (prompts.length < MIN_PROMPTS) {
      throw new SparkablateError(
        "config_invalid",
        `${name} holds ${prompts.length} prompts; allowed: ${MIN_PROMPTS} or more`,
      );
    }
    for (const [index, prompt] of prompts.entries()) {
      const here = `prompt ${index + 1} of ${name}`;
      const before = seen.get(prompt.trim());
      if (before !== undefined) {
        throw new SparkablateError(
          "config_invalid",
          `${here} is the same as ${before}: "${prompt.trim().slice(0, 60)}": remove one of them`,
        );
      }
      seen.set(prompt.trim(), here);
    }
  }
}

/** @throws SparkablateError as checkSides; config_invalid for end positions or answer tokens that do not fit. */
export async function findDirection(
  client: Client,
  model: ModelConfig,
  options: DirectionOptions,
): Promise<FoundDirection> {
  const { on = () => undefined, max_kl = DEFAULT_MAX_KL } = options;
  const search = searchOf(options);
  const payload = checkedPrompts(options, search.end_positions);
  const loaded = await loadModel(client, model, SHAPE, on);
  on({ type: "loaded", model: loaded });
  notify(on, loaded.notices);
  const { result, payload: vectors } = await client.call("find_direction", search, {
    payload,
    onEvent: stages(on),
  });
  notify(on, [...result.notices, ...dateNotices(options, result.template_date)]);
  const freedom = Math.min(result.held_out.positive.length, result.held_out.negative.length) - 1;
  const choice = choose(result.candidates, max_kl, freedom);
  const direction = choice === null ? null : vectorOf(result, vectors, choice.index, loaded);
  const chosen =
    choice === null || direction === null
      ? null
      : {
          layer: direction.layer as number,
          position: result.candidates[choice.index]?.position as number,
          norm: direction.norm,
          sha256: direction.sha256,
          beyond_controls: choice.beyond_controls,
        };
  const candidates = result.candidates.map((candidate) => scored(candidate, freedom));
  const table = { ...tableHead(options, search, loaded, result), max_kl, chosen, candidates };
  return { direction, file: direction === null ? null : directionBytes(direction, metadata(table)), table };
}

/** What the worker is asked, defaults filled in. */
function searchOf(options: DirectionOptions): Fields<"find_direction"> {
  const { positive, negative, end_positions = [1], answer_tokens } = options;
  const { held_out = HELD_OUT, resamples = RESAMPLES, seed = 0 } = options;
  const bytes = ({ prompts }: PromptSet): number[] => prompts.map((prompt) => Buffer.byteLength(prompt));
  return {
    positive_bytes: bytes(positive),
    negative_bytes: bytes(negative),
    template_date: templateDay(options),
    end_positions: [...end_positions],
    held_out,
    resamples,
    seed,
    answer_tokens: answer_tokens
      ? { positive: [...answer_tokens.positive], negative: [...answer_tokens.negative] }
      : null,
  };
}

/** Both sides' bytes, the positive one's first. */
function checkedPrompts(
  { positive, negative, answer_tokens }: DirectionOptions,
  end_positions: readonly number[],
): Uint8Array {
  checkSides(positive, negative);
  for (const { name, prompts } of [positive, negative]) requireUnicode(prompts, `${name}: prompt`);
  requireUnicode(Object.values(answer_tokens ?? {}).flat(), "answer token");
  if (new Set(end_positions).size !== end_positions.length) {
    throw new SparkablateError("config_invalid", `end positions ${end_positions.join(", ")} list one twice`);
  }
  return promptBytes([...positive.prompts, ...negative.prompts]);
}

/** The table but for what was chosen and what was looked at. */
function tableHead(
  { positive, negative, answer_tokens }: DirectionOptions,
  { template_date, end_positions, seed, resamples }: Fields<"find_direction">,
  { source, revision, weights_sha256, tokenizer_sha256, numerics }: LoadedModel,
  { held_out, contrast, template_date: written }: Result<"find_direction">,
): Omit<DirectionTable, "max_kl" | "chosen" | "candidates"> {
  return {
    version: VERSION,
    model: { source, revision, weights_sha256, tokenizer_sha256, numerics },
    method: "difference_of_means",
    positive: sideFacts(positive, held_out.positive),
    negative: sideFacts(negative, held_out.negative),
    chat_template: template_date !== null,
    template_date: written,
    end_positions,
    answer_tokens: answer_tokens ?? null,
    seed,
    resamples,
    contrast,
    unit: contrast === "separation" ? "pooled standard deviations" : "nats",
    rule: RULE,
  };
}

const sideFacts = ({ name, prompts, sha256 }: PromptSet, held: readonly number[]): SideFacts => ({
  name,
  sha256,
  prompts: prompts.length,
  held_out: held.map((index) => index + 1),
});

function vectorOf(
  { candidates }: Result<"find_direction">,
  payload: Uint8Array,
  index: number,
  { model_map }: LoadedModel,
): Direction {
  const candidate = candidates[index] as DirectionCandidate;
  const bytes = model_map.d_model * Float32Array.BYTES_PER_ELEMENT;
  if (payload.length !== candidates.length * bytes) {
    throw new SparkablateError(
      "invalid_message",
      `${payload.length} bytes of vectors for ${candidates.length} candidates`,
    );
  }
  const own = new Uint8Array(payload.subarray(index * bytes, (index + 1) * bytes));
  return {
    vector: new Float32Array(own.buffer),
    sha256: sha256(own),
    layer: candidate.layer,
    norm: candidate.norm,
  };
}

function scored({ random, ...candidate }: DirectionCandidate, freedom: number): ScoredCandidate {
  const intervals = (scores: Pick<DirectionCandidate, ScoreNames>) => ({
    contrast: withInterval(scores.contrast, freedom),
    lowered: withInterval(scores.lowered, freedom),
    raised: withInterval(scores.raised, freedom),
    kl: withInterval(scores.kl, freedom) as ScoreEstimate,
  });
  return { ...candidate, ...intervals(candidate), random: intervals(random) };
}

/** Text values only: that is all that safetensors allows. */
function metadata({ chosen, model, positive, negative, ...table }: DirectionTable): Record<string, string> {
  if (chosen === null) return {};
  return {
    format: "sparkablate direction 1",
    sparkablate: VERSION,
    model: model.source,
    ...(model.revision !== null && { revision: model.revision }),
    weights_sha256: model.weights_sha256,
    tokenizer_sha256: model.tokenizer_sha256,
    dtype: model.numerics.dtype,
    layer: String(chosen.layer),
    position: String(-chosen.position),
    method: table.method,
    norm: String(chosen.norm),
    beyond_controls: String(chosen.beyond_controls),
    positive: positive.name,
    positive_sha256: positive.sha256,
    negative: negative.name,
    negative_sha256: negative.sha256,
    chat_template: String(table.chat_template),
    ...(table.template_date !== null && { template_date: table.template_date }),
    seed: String(table.seed),
  };
}
