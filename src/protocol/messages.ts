/**
 * Every message that crosses the wire between controller and worker: the single definition.
 *
 * `npm run generate` turns it into `worker/sparkablate/server/schema.json`, against which Python
 * validates, and into `src/protocol/schema-sha256.ts`, which both sides compare in `hello`.
 *
 * A message is two frames: this envelope (msgpack, at most 1 MiB) and a payload (raw
 * little-endian tensors or UTF-8 text, at most 16 MiB, often empty).
 */
import { z } from "zod";
import { ERROR_CODES } from "../errors.ts";
import {
  DONOR_MODES,
  LAYER_MODES,
  LIMITS,
  type Listing,
  MODE_NAMES,
  MODED_KINDS,
  type Mode,
  type ModedKind,
  OPERATIONS,
  type PartCount,
  POSITIONS,
  type Positions,
  partsOf,
  SITE_KINDS,
  VALUE_KINDS,
} from "./catalog.ts";

export const MAX_ENVELOPE_BYTES = LIMITS.envelope_bytes;
export const MAX_PAYLOAD_BYTES = LIMITS.payload_bytes;
/** Most conditions in one slice. */
export const MAX_SLICE_CONDITIONS = LIMITS.slice_conditions;

const requestId = z
  .int()
  .min(0)
  .max(2 ** 31);
const session = z.string().min(1).max(64);
/** The length too, since `$` of Python's re lets a line feed pass. */
const sha256 = z
  .string()
  .length(64)
  .regex(/^[0-9a-f]{64}$/);
const layer = z.int().min(0).max(LIMITS.index);
const count = z
  .int()
  .min(0)
  .max(2 ** 31);
/** Characters of a row of the architecture table. */
const MAX_ROW = 65_536;
const label = z.string().min(1).max(4096);
const seconds = z.number().min(0);

// ── Interventions ────────────────────────────────────────────────────────────────────────────
const mode = z.enum(MODE_NAMES);
const positions = z.enum(POSITIONS);
const indices = z.array(layer).min(1).max(LIMITS.listed);

/** An edit at a site that a mode acts on; a site's parts are listed under the key that `SITES` names. */
export type SiteIntervention<K extends ModedKind = ModedKind> = {
  [S in K]: {
    readonly kind: S;
    readonly layer: number;
    /** What stands in the values' place: zeros, the site's mean, or what it has on another block or a donor line. */
    readonly mode: Mode;
    /** `not_first` leaves every block's first position alone. */
    readonly positions: Positions;
  } & Readonly<Listing<S>>;
}[K];

const sites = MODED_KINDS.map((kind) => {
  const parts = partsOf(kind);
  return z.strictObject({
    kind: z.literal(kind),
    ...(parts !== null && { [parts.field]: indices }),
    layer,
    mode,
    positions,
  });
});
const skip = z.strictObject({
  kind: z.literal("layer"),
  /** From 0. */
  layer,
  /** Its output is its input; or its input and its constant write: the mean of the sum of its writes, as they are added. */
  mode: z.enum(LAYER_MODES),
});
const direction = z.strictObject({
  kind: z.literal("direction"),
  /** Removes the direction, or adds it times `coefficient` and its norm. */
  op: z.enum(Object.keys(OPERATIONS) as [keyof typeof OPERATIONS]),
  /** Every tensor that is added to the residual stream, or the stream where it leaves a layer. */
  at: z.enum(OPERATIONS.project_out),
  /** "all" adds the embedding to every layer's writes. */
  layers: z.union([z.literal("all"), indices]),
  /** 1 removes all of it, or adds it once. */
  coefficient: z.number(),
  /** `not_first` leaves every block's first position alone. */
  positions,
  /** Which vector, as sent by `put`. */
  sha256,
});

/**
 * One edit at one site, told apart by `kind`: `{kind, layer, mode, positions}`, with `heads`, `groups` or `neurons` where a
 * site has parts; `{kind: "layer", layer, mode: "skip" | "mean"}`; `{kind: "direction", op, at, layers, coefficient, positions, sha256}`.
 * `targets` of a `RunConfig` explains the fields.
 */
export type Intervention = SiteIntervention | z.infer<typeof skip> | z.infer<typeof direction>;
// The sites' schemas are made from data, so that their types have to be said.
export const intervention = z.discriminatedUnion("kind", [
  skip,
  direction,
  ...sites,
]) as unknown as z.ZodType<Intervention>;

export const condition = z.strictObject({
  /** Canonical, e.g. `L14.head[3,7].zero`; `baseline` where nothing is edited. */
  id: label,
  /** Applied jointly, in canonical order. */
  interventions: z.array(intervention).max(LIMITS.listed),
  /** A null condition: the stream leaves this layer moved by one ulp at random. It edits nothing else. */
  nudge: z
    .strictObject({
      /** From 0. */
      layer,
      /** Of the ulps' signs. */
      seed: count,
    })
    .optional(),
});
/** What is measured together: no, one or several interventions. */
export interface Condition extends z.infer<typeof condition> {}

// ── What a worker says of a model ────────────────────────────────────────────────────────────
/** How many of each kind of part a layer has, e.g. `n_heads`; 0 where it has none. */
const counts = Object.fromEntries(
  SITE_KINDS.flatMap((kind) => partsOf(kind)?.count ?? []).map((name) => [name, count]),
) as Record<PartCount, typeof count>;

const layerMap = z.strictObject({
  /** Sites that may be edited in this layer. */
  sites: z.array(z.enum(SITE_KINDS)),
  ...counts,
  /** Width of a head's slice of the output projection's input. */
  d_head: count,
  /** Module paths, for `inspect`. */
  modules: z.record(z.string(), z.string()),
});

export const modelMap = z.strictObject({
  /** As in the model's config.json. */
  model_type: label,
  /** How many. */
  n_layers: count,
  /** Width of the residual stream. */
  d_model: count,
  /** Rows of the embedding. */
  vocab_size: count,
  /** Longest sequence the model's positions allow; null where there is no limit. */
  max_positions: count.nullable(),
  /** How many, tied ones once. */
  parameters: count.or(z.number().int().min(0)),
  /** Row of the architecture table that was found on the loaded model and that nobody has reviewed; null: the table's. */
  discovered: z.string().max(MAX_ROW).nullable(),
  /** One a layer, in order. */
  layers: z.array(layerMap),
});
/** Where a model can be edited. */
export interface ModelMap extends z.infer<typeof modelMap> {}

export const modelConfig = z.strictObject({
  /** Hugging Face id, absolute path of a model directory, or `builtin:smollm2-135m`. */
  name: label,
  /** Commit, branch or tag; null: the main branch, or a local model. */
  revision: label.nullable(),
  /** Of the weights and of the computation; auto follows from checkpoint, device and total memory. */
  dtype: z.enum(["auto", "bfloat16", "float16", "float32"]),
  /** auto: cuda before mps before cpu. */
  device: z.enum(["auto", "cuda", "mps", "cpu"]),
  /** auto: layers that the device has no room for go to its like, to main memory, to disk; null: refused. */
  device_map: z.enum(["auto"]).nullable(),
  /** As in transformers; null: the model's default. */
  attn_implementation: label.nullable(),
  /** CPU threads; null: torch's default. */
  threads: z.int().min(1).max(1024).nullable(),
  /** Needs a pinned commit. */
  trust_remote_code: z.boolean(),
});
/** What is loaded, and how it computes: the `model` section of a config. */
export interface ModelConfig extends z.infer<typeof modelConfig> {}

/** All that changes the bits of a result without changing its meaning. */
export const numerics = z.strictObject({
  /** Of the weights and of the computation. */
  dtype: label,
  /** Where the model is, e.g. cpu or cuda:0. */
  device: label,
  /** The GPU's or the processor's. */
  device_name: label,
  /** Which kernels torch chose, e.g. AVX512. */
  cpu_capability: label,
  /** As in transformers, e.g. sdpa. */
  attn_implementation: label,
  /** Of torch, on the CPU. */
  threads: count,
  /** Whether float32 matrix products are shortened to TF32; always false. */
  tf32: z.boolean(),
  /** Whether torch's deterministic algorithms are on. */
  deterministic: z.boolean(),
  /** Whether the loss is taken from full logits because chunks were not bit-equal here. */
  full_logits: z.boolean(),
  /** Package → version. */
  versions: z.record(z.string(), z.string()),
});
/** All that changes the bits of a result without changing its meaning. */
export interface Numerics extends z.infer<typeof numerics> {}

const selfTest = z.strictObject({
  /** What was tested. */
  name: label,
  /** Whether it held. */
  passed: z.boolean(),
  /** What was found. */
  detail: z.string().max(4096),
  /** Sites refused because of a failure, e.g. "L0.head". */
  refused: z.array(label),
});

const modelFiles = z.strictObject({
  /** In which the worker has them. */
  directory: label,
  /** Of the names that lie there: where it is the same, no file came. */
  entries_sha256: sha256,
  /** All that decide what the model computes, what a text becomes and how it is continued. */
  files: z
    .array(
      z.strictObject({
        /** Relative to the directory, or as the index or the tokenizer gives it. */
        name: label,
        /** Of its content. */
        sha256,
        /** Size, mtime and ctime in ns, inode, when the model was loaded. */
        stamp: label,
      }),
    )
    .max(4096),
});
/** The files that a model was loaded from, as they were. */
export interface ModelFiles extends z.infer<typeof modelFiles> {}

export const loadedModel = z.strictObject({
  /** Local directory or Hugging Face id. */
  source: label,
  /** The commit that was resolved; null for a local directory. */
  revision: label.nullable(),
  /** Where it can be edited. */
  model_map: modelMap,
  numerics,
  /** Over the weight files. */
  weights_sha256: sha256,
  /** Over the tokenizer's files. */
  tokenizer_sha256: sha256,
  /** Each of them, and all that decide the model beside them. */
  model_files: modelFiles,
  /** The token that stands before every block where add_bos asks for it; null: the tokenizer has none. */
  bos_token_id: count.nullable(),
  /** Whether it stands there with add_bos: auto: the tokenizer itself adds it, or the model needs it (Gemma). */
  adds_bos: z.boolean(),
  /** What the load proved: that edits hit what they name. */
  self_test: z.array(selfTest),
  /** Things a person should know, e.g. a dtype that was replaced. */
  notices: z.array(label),
  /** That the load took. */
  seconds,
  /** True where the worker had this model already. */
  reused: z.boolean(),
  /** One unedited pass over a batch of the run's shape, measured at load. */
  cost: z.strictObject({
    /** Of all layers. */
    stack_seconds: seconds,
    /** Of the head, with the loss. */
    head_seconds: seconds,
    /** Largest memory during it, of the process (CPU) or of torch on the device. */
    peak_bytes: z.int().min(0),
    /** Whether conditions start at their first edited layer; else each takes a whole pass. */
    walks: z.boolean(),
  }),
});
/** A model as the worker has it. */
export interface LoadedModel extends z.infer<typeof loadedModel> {}

// ── Requests ─────────────────────────────────────────────────────────────────────────────────
const owner = z.strictObject({
  run_id: label,
  pid: count,
  host: label,
  /** Who holds another worker on this machine, in words: where there is no room for a second model, that is why. */
  besides: label.optional(),
});
export type Owner = z.infer<typeof owner>;

const base = { id: requestId, session };
const dataset = z.strictObject({
  /** Hugging Face id or a local directory as the worker sees it. */
  path: label,
  /** Of those that the data set has; null: its only one. */
  config: label.nullable(),
  /** E.g. test. */
  split: label,
  /** That holds the text. */
  column: label,
});

/** Sites whose mean activation is wanted. */
const meanSite = z.strictObject({ kind: z.enum(VALUE_KINDS), layer, positions, width: count });
export type MeanSite = z.infer<typeof meanSite>;

const wholeSite = z.strictObject({
  kind: z.enum(MODED_KINDS as [ModedKind, ...ModedKind[]]),
  mode,
  positions,
});
/** One edit of every part of a kind of site, each part alone. */
export interface WholeSite extends z.infer<typeof wholeSite> {}

/** Where a task's item has its answer. Positions are those of its row, from 0, a BOS token included. */
export const answer = z.strictObject({
  /** Of the answer's first token. */
  begin: z.int().min(1).max(MAX_PAYLOAD_BYTES),
  /** Behind its last one; what follows is padding. */
  end: z.int().min(2).max(MAX_PAYLOAD_BYTES),
  /** Where the wrong answer first differs, and the token that it has there; null: the task has no wrong answers. */
  wrong: z.strictObject({ at: z.int().min(1).max(MAX_PAYLOAD_BYTES), token: count }).nullable(),
});
/** Where a task's item has its answer. */
export interface Answer extends z.infer<typeof answer> {}

/** Length of each prompt in the payload. */
const promptBytes = z.array(z.int().min(1).max(MAX_PAYLOAD_BYTES)).min(1).max(4096);

/** Each prompt as a user's message in the model's chat template, which takes this for today; null: as it stands. */
const templateDate = z
  .string()
  .length(10)
  .regex(/^\d{4}-\d{2}-\d{2}$/)
  .nullable();

/** A mean over held-out prompts and its standard error. */
const estimate = z.strictObject({
  value: z.number(),
  /** Standard error of the mean over prompts. */
  se: z.number().min(0),
});
/** null: there is nothing to read the contrast from. */
const directionScores = z.strictObject({
  /** How far apart the two sides are, unedited. */
  contrast: estimate.nullable(),
  /** By how much projecting it out lowers the contrast. */
  lowered: estimate.nullable(),
  /** By how much adding it moves the negative prompts towards the positive ones. */
  raised: estimate.nullable(),
  /** What projecting it out costs: nats at the negative prompts' next token. */
  kl: estimate,
});
export const directionCandidate = z.strictObject({
  /** Whose stream it was found in, from 0. */
  layer,
  /** Counted from the prompts' end; 1 is the last token. */
  position: count,
  /** Length of the difference of means. */
  norm: z.number(),
  /** Between the directions of two halves of the prompts; mean of 20 splits. */
  split_half_cosine: z.number(),
  /** Mean of the bootstrap samples' cosines with the direction. */
  bootstrap_cosine: z.number(),
  /** Their 5 % quantile. */
  bootstrap_cosine_low: z.number(),
  ...directionScores.shape,
  /** The same scores of a random direction of the same norm at the same place. */
  random: directionScores,
});
export interface DirectionCandidate extends z.infer<typeof directionCandidate> {}

const bakeCard = z.strictObject({
  /** Of the table. */
  rows: z
    .array(
      z.strictObject({
        /** With its unit. */
        what: label,
        /** Of the source. */
        before: label,
        /** Of what is written. */
        after: label,
      }),
    )
    .max(256),
  /** Below the table. */
  paragraphs: z.array(label).max(64),
});
/** Rows and paragraphs of a model card's section "before and after", in Markdown. */
export interface BakeCard extends z.infer<typeof bakeCard> {}

export const requests = {
  hello: z.strictObject({ type: z.literal("hello"), id: requestId, schema_sha256: sha256, owner }),
  ping: z.strictObject({ type: z.literal("ping"), ...base }),
  load: z.strictObject({
    type: z.literal("load"),
    ...base,
    model: modelConfig,
    seq_len: count,
    batch_size: count,
    /** For a bake: weights that do not fit the memory stay on disk instead of being refused; quantised ones are. */
    may_offload: z.boolean(),
  }),
  /** `meta`: from the configuration alone, no weights. */
  inspect: z.strictObject({ type: z.literal("inspect"), ...base, model: modelConfig, meta: z.boolean() }),
  /** Payload: UTF-8 text where `dataset` is null, else empty. */
  tokenize: z.strictObject({
    type: z.literal("tokenize"),
    ...base,
    dataset: dataset.nullable(),
    max_tokens: count,
  }),
  /** A task's items. Payload: UTF-8, a JSON list of `{prompt, answer, wrong?}`. */
  tokenize_task: z.strictObject({
    type: z.literal("tokenize_task"),
    ...base,
    /** What messages call the file; its n-th line is the n-th item. */
    name: label,
    max_tokens: count,
  }),
  /** What tokens stand for. Payload: int32 [tokens]. */
  token_bytes: z.strictObject({ type: z.literal("token_bytes"), ...base }),
  /** Payload: int32 [blocks, seq_len], or with `lengths` the rows one after the other. */
  calibrate: z.strictObject({
    type: z.literal("calibrate"),
    ...base,
    seq_len: count,
    /** Tokens of each row, where they differ; null: seq_len each. */
    lengths: z
      .array(
        z
          .int()
          .min(1)
          .max(1 << 20),
      )
      .min(1)
      .max(65_536)
      .nullable(),
    batch_size: z.int().min(1),
    sites: z.array(meanSite.omit({ width: true })).min(1),
  }),
  /** A vector or a set of means that later conditions name by its sha256. Payload: float32. */
  put: z.discriminatedUnion("kind", [
    z.strictObject({
      type: z.literal("put"),
      kind: z.literal("means"),
      ...base,
      sha256,
      sites: z.array(meanSite),
    }),
    z.strictObject({
      type: z.literal("put"),
      kind: z.literal("direction"),
      ...base,
      sha256,
      /** Recorded norm s of `add`; 1 where the file has none. */
      norm: z.number(),
    }),
  ]),
  /** A vector out of a pickled file, with torch's restricted loader. Payload: the bytes of a `.pt`. */
  read_direction: z.strictObject({ type: z.literal("read_direction"), ...base }),
  /**
   * One slice. Payload: int32 [blocks, seq_len], then of each of `donors` as many blocks: row i's activations go
   * into row i.
   */
  evaluate: z.strictObject({
    type: z.literal("evaluate"),
    ...base,
    seq_len: z.int().min(2),
    blocks: z.array(count).min(1).max(65_536),
    /** With a task, where each block's answer stands: what alone is measured. null: every token but the first. */
    answers: z.array(answer).min(1).max(4096).nullable(),
    /** true: each measurement carries the NLL at every predicted token too. */
    per_token: z.boolean().optional(),
    /** Modes whose donor blocks follow in the payload. */
    donors: z.array(z.enum(DONOR_MODES)).max(DONOR_MODES.length),
    /** Edits that act in every condition and in the baseline; absent: none. */
    given: z.array(intervention).min(1).max(LIMITS.listed).optional(),
    conditions: z.array(condition).min(1).max(MAX_SLICE_CONDITIONS),
    metrics: z.array(label).min(1).max(16),
    /** Which means `mode: mean` uses; null where no condition needs them. */
    means_sha256: sha256.nullable(),
  }),
  /**
   * First-order effects on one batch: d/dt at t = 0 of the metric with every edited tensor at x + t(x′ − x), x′ the
   * condition's edit of it. One pass up and one down, whatever the number of conditions. Payload: as of `evaluate`.
   */
  attribute: z.strictObject({
    type: z.literal("attribute"),
    ...base,
    seq_len: z.int().min(2),
    /** How many blocks stand in the payload, donors aside. */
    blocks: z.int().min(1).max(65_536),
    /** As of `evaluate`. */
    answers: z.array(answer).min(1).max(4096).nullable(),
    /** Modes whose donor blocks follow in the payload. */
    donors: z.array(z.enum(DONOR_MODES)).max(DONOR_MODES.length),
    /** Edits that act in every condition and in the baseline; absent: none. */
    given: z.array(intervention).min(1).max(LIMITS.listed).optional(),
    conditions: z.array(condition.omit({ nudge: true })).max(LIMITS.listed),
    /** Each part of such a site alone, in every layer that offers it: an `attribution` event a layer. */
    sites: z.array(wholeSite).max(16),
    metric: z.enum(["nll", "logit_diff"]),
    means_sha256: sha256.nullable(),
  }),
  /** Greedy continuations of every prompt under every condition. Payload: the prompts' UTF-8, one after another. */
  generate: z.strictObject({
    type: z.literal("generate"),
    ...base,
    prompt_bytes: promptBytes,
    conditions: z.array(condition).min(1).max(MAX_SLICE_CONDITIONS),
    max_new_tokens: z.int().min(1).max(65_536),
    template_date: templateDate,
    means_sha256: sha256.nullable(),
  }),
  /** Refuses, from the model's configuration alone, what `bake` would refuse once its weights are loaded. */
  check_bake: z.strictObject({
    type: z.literal("check_bake"),
    ...base,
    model: modelConfig,
    condition,
    out: label,
    dtype: z.enum(["auto", "float32", "source"]),
    prune_layers: z.boolean(),
    prune_kv_groups: z.boolean(),
    prune_neurons: z.boolean(),
    force: z.boolean(),
  }),
  /** Writes one condition into the weights of the loaded model; afterwards no model is loaded. Never sent twice. */
  bake: z.strictObject({
    type: z.literal("bake"),
    ...base,
    condition,
    /** Absolute path of the directory to make, as the worker sees it. */
    out: label,
    dtype: z.enum(["auto", "float32", "source"]),
    /** Skipped layers are deleted instead of made the identity. */
    prune_layers: z.boolean(),
    /** Key/value groups that are zeroed are removed, with their query heads: as many in every layer. */
    prune_kv_groups: z.boolean(),
    /** Neurons that are zeroed are removed: as many in every layer. */
    prune_neurons: z.boolean(),
    /** Whether a directory that an earlier bake made may be replaced. */
    force: z.boolean(),
    means_sha256: sha256.nullable(),
    /** Whether source and result are timed beside each other. */
    timed: z.boolean(),
    /** What the model card compares, in Markdown; null: nothing. */
    card: bakeCard.nullable(),
  }),
  /**
   * Directions that tell two sets of prompts apart. Payload: the prompts' UTF-8, one after another, the
   * positive ones first.
   */
  find_direction: z.strictObject({
    type: z.literal("find_direction"),
    ...base,
    positive_bytes: promptBytes,
    negative_bytes: promptBytes,
    template_date: templateDate,
    /** Token positions counted from each prompt's end; 1 is the last. */
    end_positions: z.array(z.int().min(1).max(1024)).min(1).max(64),
    /** Share of each side that scores instead of being averaged. */
    held_out: z.number().gt(0).lt(1),
    /** Bootstrap samples. */
    resamples: z.int().min(1).max(10_000),
    seed: z.int().min(0).max(Number.MAX_SAFE_INTEGER),
    /** Texts of one token each; null: the contrast is read from the last layer's stream. */
    answer_tokens: z
      .strictObject({ positive: z.array(label).min(1).max(64), negative: z.array(label).min(1).max(64) })
      .nullable(),
  }),
  cancel: z.strictObject({ type: z.literal("cancel"), ...base, target: requestId }),
  goodbye: z.strictObject({ type: z.literal("goodbye"), ...base }),
  shutdown: z.strictObject({ type: z.literal("shutdown"), ...base }),
} as const;

export type RequestType = keyof typeof requests;
export type Request<T extends RequestType = RequestType> = z.infer<(typeof requests)[T]>;

// ── Results: exactly one a request, unless it fails ──────────────────────────────────────────
/** What a fresh process with stock transformers found in a baked directory. */
const certificate = z.strictObject({
  /** Of the tensors. */
  edit: z.strictObject({
    /** Tensors that are what the edit says. */
    edited: count,
    /** Tensors that are the source's, byte for byte or exactly cast. */
    equal: count,
    /** Largest error of an edited tensor, over its norm. */
    largest_residual: z.number().min(0),
  }),
  /** Of the logits on a fixed text. */
  behaviour: z.strictObject({
    /** Largest difference to the live intervention's logits, over the largest logit. */
    logit_difference: z.number().min(0),
    /** Largest `logit_difference` that passes. */
    tolerance: z.number().min(0),
    /** The same between two algebraically equal live runs; null where the two sides have no reason to differ. */
    floor: z.number().min(0).nullable(),
    /** Of the live intervention, in size. */
    largest_logit: z.number().min(0),
    /** KL(live ‖ baked), nats a position. */
    kl: z.number().min(0),
    /** Of the baked checkpoint, nats per predicted token. */
    nll: z.number().min(0),
    /** Baked minus live, nats per predicted token. */
    delta_nll: z.number(),
    /** Compared ones. */
    positions: count,
    /** Positions whose chosen experts differ. */
    rerouted: count,
    /** Positions left out for it. */
    left_out: count,
  }),
});

const modelSize = z.strictObject({
  /** How many, tied ones once. */
  parameters: z.int().min(0),
  /** That they take on disk, in the dtype they are written in. */
  bytes: z.int().min(0),
});
/** How large a model is. */
export interface ModelSize extends z.infer<typeof modelSize> {}

/** Forward passes of stock transformers without a cache, by turns: of the source and of what was written. */
const timing = z.strictObject({
  /** Tokens a second of the source: the middle pass's. */
  before: z.number().min(0),
  /** Tokens a second of what was written. */
  after: z.number().min(0),
  /** Blocks in a pass. */
  batch_size: count,
  /** Tokens a block. */
  seq_len: count,
  /** Passes of each model; one more before them warms up. */
  rounds: count,
  /** Of both. */
  dtype: label,
  /** Of both, e.g. cpu. */
  device: label,
  /** Of torch, on the CPU. */
  threads: count,
});
/** How fast a model runs before and after a bake. */
export interface Timing extends z.infer<typeof timing> {}

/** What a worker was started from and has become: where all of it is equal, another one would compute the same. */
const origin = z.strictObject({
  pid: count,
  /** Name of its machine, or container. */
  host: label,
  /** Of the files of the Python package, when it was started. */
  code_sha256: sha256,
  /** The interpreter. */
  python: label,
  /** CPUs that it may run on, as the kernel lists them; null where no kernel tells. */
  cpus: z.string().max(4096).nullable(),
  /** Variable → sha256 of its value: those that decide what is loaded, or the bits of a result. */
  environment: z.record(label, sha256),
  /** What `device: auto` is there. */
  device: label,
  /** Whether a model was loaded with `threads`: torch does not go back to its default as it was. */
  threads_set: z.boolean(),
  /** Of the loaded model; null: none is. */
  model_files: modelFiles.nullable(),
});
export type Origin = z.infer<typeof origin>;

const mount = z.strictObject({ host: label, worker: label, writable: z.boolean() });
const empty = z.strictObject({});

export const results = {
  hello: z.strictObject({
    session,
    /** What is loaded already, if anything. */
    model: label.nullable(),
    /** How many slices to keep in flight. */
    slots: z.int().min(1),
    mounts: z.array(mount),
    versions: z.record(z.string(), z.string()),
    /** null where no single process computes (Ray). */
    origin: origin.nullable(),
  }),
  ping: empty,
  load: loadedModel,
  inspect: z.strictObject({
    /** Where it can be edited. */
    model_map: modelMap,
    /** Empty from the configuration alone. */
    self_test: z.array(selfTest),
    /** What a person should know, e.g. tensors that were read past. Empty from the configuration alone. */
    notices: z.array(label),
  }),
  /** Payload: int32 [tokens]. */
  tokenize: z.strictObject({
    tokens: count,
    /** Whether there is more of the text. */
    truncated: z.boolean(),
    /** What a person should know, e.g. the line ends. */
    notices: z.array(label).max(16),
  }),
  /**
   * Payload: int32 [items, 4]: `begin`, `end`, `at` and `token` of each `Answer` without BOS (−1: no wrong answer);
   * then the items' ids, one item after the other.
   */
  tokenize_task: z.strictObject({
    items: count,
    /** What a person should know, e.g. answers that continue the prompt's last word. */
    notices: z.array(label).max(16),
  }),
  /** Payload: int32 [tokens], the length of each in bytes; then their bytes, one token after the other. */
  token_bytes: z.strictObject({ tokens: count }),
  /** Payload: float32, the sites' means one after the other. */
  calibrate: z.strictObject({ sites: z.array(meanSite), sha256, tokens: count }),
  put: empty,
  /** Payload: float32 [d_model], of unit length. `norm`: the length that was divided out, or was recorded. */
  read_direction: z.strictObject({ norm: z.number(), layer: layer.nullable() }),
  evaluate: z.strictObject({
    measured: count,
    failed: count,
    cancelled: z.boolean(),
    /** Of the engine, not of waiting for it. */
    seconds,
    /** How many slices to keep in flight from now on. */
    slots: z.int().min(1),
    /** Things a person should know, e.g. an actor that was excluded. */
    notices: z.array(label),
  }),
  /**
   * Payload: float64 [conditions, blocks], of the metric's sum over a block's predicted tokens; of a task's item, of its
   * own value.
   */
  attribute: z.strictObject({
    conditions: count,
    /** Of the engine, not of waiting for it. */
    seconds,
  }),
  /** `prompt_tokens`: of each prompt, special tokens and template included. */
  generate: z.strictObject({
    prompt_tokens: z.array(count),
    /** What the chat template writes; null: it writes no date. */
    template_date: templateDate,
    cancelled: z.boolean(),
    /** What a person should know, e.g. settings of the model's generation config that change the choice of tokens. */
    notices: z.array(label),
    seconds,
  }),
  check_bake: z.strictObject({
    /** In which the live side is to run. */
    dtype: z.enum(["bfloat16", "float16", "float32"]),
    /** Whether every tensor keeps the source's own dtype; else float32 is written. */
    keeps_source: z.boolean(),
    why: label,
    before: modelSize,
    /** Of what would be written. */
    after: modelSize,
  }),
  bake: z.strictObject({
    /** Absolute path, as the worker sees it. */
    directory: label,
    /** Id of what was baked. */
    condition: label,
    /** How many were written. */
    files: count,
    /** Of all files. */
    bytes: z.int().min(0),
    /** What a fresh process with stock transformers found. */
    certificate,
    /** What a person should know before another program reads it. */
    notes: z.array(label),
    /** Of the source directory: what was not copied → why. The directory's own record has all of it. */
    left_behind: z.record(label, label),
    /** Converts it for llama.cpp; null where llama.cpp is known to read it wrongly. */
    gguf_command: label.nullable(),
    /** null where it was not asked for, or both models do not fit into memory beside each other. */
    timing: timing.nullable(),
    /** That it all took. */
    seconds,
  }),
  /** Payload: float32 [candidates, d_model], unit vectors. */
  find_direction: z.strictObject({
    candidates: z.array(directionCandidate).max(LIMITS.candidates),
    /** Indices of the prompts that were scored, not averaged. */
    held_out: z.strictObject({ positive: z.array(count), negative: z.array(count) }),
    contrast: z.enum(["separation", "log_odds"]),
    /** What the chat template writes; null: it writes no date. */
    template_date: templateDate,
    /** What a person should know, e.g. an EOS token that is taken off. */
    notices: z.array(label).max(16),
    seconds,
  }),
  cancel: empty,
  goodbye: empty,
  shutdown: empty,
} as const satisfies Record<RequestType, z.ZodType>;

export type Result<T extends RequestType = RequestType> = z.infer<(typeof results)[T]>;

export const reply = z.strictObject({ type: z.literal("reply"), id: requestId, result: z.unknown() });

export const wireError = z.strictObject({
  /** What went wrong. */
  code: z.enum(ERROR_CODES),
  /** For a person. */
  message: z.string().max(65_536),
  /** Python traceback. */
  detail: z.string().max(262_144),
});
/** A SparkablateError as it crosses the wire. */
export interface WireError extends z.infer<typeof wireError> {}

export const failure = z.strictObject({
  type: z.literal("failure"),
  id: requestId.nullable(),
  error: wireError,
});

// ── Events: any number of them, before the reply ─────────────────────────────────────────────
export const events = {
  progress: z.strictObject({
    type: z.literal("progress"),
    id: requestId,
    stage: label,
    done: z.number().min(0),
    total: z.number().min(0).nullable(),
    unit: label,
  }),
  /**
   * One condition on the slice's blocks. Payload: float64 [columns, blocks], with `per_token` followed by float32
   * [blocks, seq_len - 1]: the NLL at each predicted token, 0 at what is not measured; empty where it failed.
   */
  measurement: z.strictObject({
    type: z.literal("measurement"),
    id: requestId,
    condition: label,
    /** Names of the payload's rows: sums over the block's predicted tokens; of a task's item, its own values. */
    columns: z.array(label).max(64),
    /** What a sum is divided by: predicted tokens a block; 1 with a task. */
    tokens: count,
    seconds,
    flags: z.array(label),
    error: wireError.nullable(),
  }),
  /**
   * Of one layer's parts at a site that `attribute` named. Payload: float64 [parts], summed over the blocks; NaN: given
   * edits cover the part. A site without parts is one part.
   */
  attribution: z.strictObject({
    type: z.literal("attribution"),
    id: requestId,
    /** Index in the request's `sites`. */
    site: count,
    /** From 0. */
    layer,
    parts: count,
  }),
  /** One prompt continued under one condition. Payload: int32 ids of the new tokens; empty where it failed. */
  generation: z.strictObject({
    type: z.literal("generation"),
    id: requestId,
    condition: label,
    /** Index of the prompt. */
    prompt: count,
    text: z.string().max(524_288),
    /** Whether the model ended the text itself, with an end token. */
    stopped: z.boolean(),
    seconds,
    error: wireError.nullable(),
  }),
  log: z.strictObject({
    type: z.literal("log"),
    id: requestId,
    level: z.enum(["info", "warning"]),
    message: label,
  }),
} as const;

export type EventType = keyof typeof events;
export type Event<T extends EventType = EventType> = z.infer<(typeof events)[T]>;

/** Whatever a worker sends. */
export const fromWorker = z.union([
  reply,
  failure,
  events.progress,
  events.measurement,
  events.attribution,
  events.generation,
  events.log,
]);
export type FromWorker = z.infer<typeof fromWorker>;
