/** What a run would measure and cost, from the model's configuration alone: nothing is loaded, started or written. */
import { readFileSync, statSync } from "node:fs";
import type { RunConfig } from "../config/load.ts";
import { isRun } from "../config/paths.ts";
import { sha256 } from "../digest.ts";
import { type DirectionFiles, requireWidth } from "../directions/file.ts";
import {
  type Configuration,
  countIn,
  findModel,
  modelDirectory,
  positionsIn,
  readConfiguration,
  storedParameters,
} from "../environment/model-config.ts";
import { keepRate, knownRate } from "../environment/rates.ts";
import { SparkablateError } from "../errors.ts";
import { type DirectionFacts, nullConditions, planConditions } from "../plan/conditions.ts";
import { headShare, sweepCost } from "../plan/cost.ts";
import { batches } from "../plan/slices.ts";
import { SITE_KINDS } from "../protocol/catalog.ts";
import type { LoadedModel, ModelMap } from "../protocol/messages.ts";
import { readInputs } from "./inputs.ts";

export interface DryRun {
  /** Where the results would go. */
  readonly directory: string;
  /** Whether a run lies there already; the figures are those of all of it. */
  readonly begun: boolean;
  readonly model_type: string;
  readonly n_layers: number;
  /** null: neither its weights nor its configuration tell. */
  readonly parameters: number | null;
  /** Of the weights, by dtype. */
  readonly bytes: Readonly<Record<string, number>> | null;
  /** The baseline and null conditions included. */
  readonly conditions: number;
  /** Blocks or items; at most, where the tokenizer decides. */
  readonly blocks: number;
  readonly batches: number;
  /** In unedited passes over a full batch. */
  readonly forward_equivalents: number;
  /** null: this model was not measured here yet. */
  readonly seconds: number | null;
  /** Where the rate was measured, in words. */
  readonly rate: string | null;
  readonly notices: readonly string[];
}

const BYTES = { float32: 4, bfloat16: 2, float16: 2 } as const;
/** A text that is not cut by max_batches is cut here: 4 million tokens (docs/limits.md). */
const MOST_TOKENS = (16 << 20) / 4;

/** @throws SparkablateError as a run that is planned, and model_not_found where no configuration is on this machine. */
export function dryRun(config: RunConfig): DryRun {
  const directory = modelDirectory(config.model);
  const { text, type, language } = readConfiguration(directory);
  const stored = storedParameters(directory);
  const map = mapOf(type, language, stored ?? 0);
  const inputs = readInputs(config);
  const directions = factsOf(inputs.directions, map);
  const plan = planConditions(config, map, directions, inputs.earlier);
  const parameters = stored ?? estimated(language, map);
  const { blocks, notice } = blocksOf(config, inputs.task?.items.length ?? null);
  const { batch_size, seq_len } = config.eval;
  const all = batches(blocks, batch_size);
  const { model } = config;
  const rate = knownRate({
    configuration: text,
    device: model.device,
    dtype: model.dtype,
    threads: model.threads,
  });
  const rounding = nullConditions(model.dtype, map);
  // What auto becomes the worker decides; where the model was loaded before, that is known.
  const undecided = model.dtype === "auto" && rate === null;
  const exact = undecided || (rate?.place.endsWith(" in float32") ?? false);
  const conditions = exact ? plan.conditions : [...plan.conditions, ...rounding];
  const tokens = batch_size * seq_len;
  const share = headShare(map, parameters);
  const cost = {
    stack_seconds: rate === null ? 1 - share : rate.stack_seconds * tokens,
    head_seconds: rate === null ? share : rate.head_seconds * tokens,
    peak_bytes: 0,
    walks: rate?.walks ?? true,
  };
  const missing = all.values().map((batch) => ({ share: batch.length / batch_size, conditions }));
  const { forward_equivalents, seconds } = sweepCost(
    missing,
    { cost, model_map: map, numerics: model },
    inputs.metrics,
  );
  return {
    directory: config.output.dir,
    begun: isRun(config.output.dir),
    model_type: type,
    n_layers: map.n_layers,
    parameters,
    bytes:
      parameters === null
        ? null
        : Object.fromEntries(Object.entries(BYTES).map(([dtype, size]) => [dtype, parameters * size])),
    conditions: conditions.length,
    blocks,
    batches: all.length,
    forward_equivalents,
    seconds: rate === null ? null : seconds,
    rate: rate?.place ?? null,
    notices: [
      ...plan.notices,
      ...(notice === null ? [] : [notice]),
      ...(undecided
        ? [`below float32, ${rounding.length} null conditions that measure rounding are added`]
        : []),
    ],
  };
}

/** Every layer alike, with every site: what a layer lacks only the loaded model shows. */
function mapOf(model_type: string, language: Configuration, parameters: number): ModelMap {
  const number = (...keys: string[]): number | undefined => countIn(language, ...keys);
  const n_layers = number("num_hidden_layers", "n_layer", "n_layers", "num_layers");
  const d_model = number("hidden_size", "n_embd", "d_model", "dim");
  if (n_layers === undefined || d_model === undefined)
    throw new SparkablateError(
      "architecture_unsupported",
      `the configuration of ${model_type} does not say how many layers it has, or how wide they are`,
      { help: "Run it, or see 'sparkablate inspect -m MODEL': the loaded model shows both." },
    );
  const n_heads = number("num_attention_heads", "n_head", "n_heads") ?? 0;
  const n_kv_heads = number("num_key_value_heads", "num_kv_heads", "n_head_kv") ?? n_heads;
  const d_head = number("head_dim") ?? (n_heads === 0 ? 0 : Math.floor(d_model / n_heads));
  const n_neurons = number("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") ?? 4 * d_model;
  const sites = SITE_KINDS.filter((kind) => n_heads > 0 || (kind !== "head" && kind !== "kv_group"));
  return {
    ...{ model_type, n_layers, d_model, parameters, discovered: null },
    vocab_size: number("vocab_size") ?? 0,
    max_positions: positionsIn(language),
    layers: Array.from({ length: n_layers }, () => ({
      sites,
      n_heads,
      n_kv_heads,
      n_neurons,
      d_head,
      modules: {},
    })),
  } as ModelMap;
}

/** Of types whose MLP has one projection up; the others gate it with a second. */
const UNGATED = /^(gpt2|gpt_neox|gpt_neo|gptj|opt|bloom|falcon|phi|starcoder2|nemotron|arcee|mpt|codegen)$/;

/** As llama and its kin are built; null where a mixture of experts or a recurrent layer would make it wrong. */
function estimated(language: Configuration, map: ModelMap): number | null {
  const [layer] = map.layers;
  const isPlain = !Object.keys(language).some((key) => /expert|mamba|ssm|linear_/.test(key));
  if (layer === undefined || !isPlain || layer.n_heads === 0) return null;
  const { d_model, vocab_size, n_layers, model_type } = map;
  const { n_heads, n_kv_heads, d_head, n_neurons } = layer;
  const attention = 2 * d_model * d_head * (n_heads + n_kv_heads);
  const mlp = (UNGATED.test(model_type) ? 2 : 3) * d_model * n_neurons;
  const embeddings = (language.tie_word_embeddings === true ? 1 : 2) * vocab_size * d_model;
  return n_layers * (attention + mlp + 2 * d_model) + embeddings + d_model;
}

function blocksOf(
  { eval: settings }: RunConfig,
  items: number | null,
): { blocks: number; notice: string | null } {
  const { dataset, also = [], max_batches, batch_size, seq_len, skip_batches } = settings;
  const cap = max_batches === null ? Number.POSITIVE_INFINITY : max_batches * batch_size;
  if (items !== null)
    return { blocks: Math.max(0, Math.min(items - skip_batches * batch_size, cap)), notice: null };
  const wanted = Math.min(cap, Math.floor(MOST_TOKENS / seq_len));
  const files = [dataset, ...also].filter((source) => typeof source === "string");
  if (files.length <= also.length)
    return {
      blocks: wanted,
      notice: "how many blocks the data set has is known once it is tokenised: here as many as are asked for",
    };
  // A token is some four bytes of English.
  const shortest = Math.min(...files.map((file) => statSync(file).size));
  const held = (1 + also.length) * Math.floor(shortest / 4 / seq_len);
  if (held >= wanted) return { blocks: wanted, notice: null };
  return {
    blocks: Math.max(1, held),
    notice: `about ${held} blocks of ${seq_len} tokens, at 4 bytes a token; the tokenizer decides`,
  };
}

/** A pickle is read by the worker: here its file stands for its vector. */
function factsOf(files: DirectionFiles, map: ModelMap): Map<string, DirectionFacts> {
  const facts = new Map<string, DirectionFacts>();
  for (const [path, file] of files) {
    if (!("pickle" in file)) requireWidth(new Map([[path, file]]), map);
    facts.set(path, "pickle" in file ? { sha256: sha256(readFileSync(path)), layer: 0 } : file);
  }
  return facts;
}

/** Keeps how fast a model is that was loaded for the config, where a later dry run can find it. */
export function rememberRate(config: RunConfig, { cost, numerics }: LoadedModel): void {
  const { model, eval: settings } = config;
  const directory = findModel(model);
  // Items of a task are as long as they are: nothing says how many tokens the timed pass had.
  if (directory === null || settings.task !== null) return;
  const tokens = settings.batch_size * settings.seq_len;
  const { text } = readConfiguration(directory);
  keepRate(
    { configuration: text, device: model.device, dtype: model.dtype, threads: model.threads },
    {
      stack_seconds: cost.stack_seconds / tokens,
      head_seconds: cost.head_seconds / tokens,
      walks: cost.walks,
      place: `${numerics.device_name} in ${numerics.dtype}`,
    },
  );
}
