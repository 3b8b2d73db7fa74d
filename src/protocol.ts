/**
 * Every message that crosses the wire between controller and worker: the single definition.
 *
 * `npm run generate` turns it into `worker/sparkablate/server/schema.json`, against which Python
 * validates, and into `src/schema-sha256.ts`, which both sides compare in `hello`.
 *
 * A message is two frames: this envelope (msgpack, at most 1 MiB) and a payload (raw
 * little-endian tensors or UTF-8 text, at most 16 MiB, often empty).
 */
import { z } from "zod";
import { ERROR_CODES } from "./errors.ts";

export const MAX_ENVELOPE_BYTES = 1 << 20;
export const MAX_PAYLOAD_BYTES = 16 << 20;
/** Most conditions in one slice. */
export const MAX_SLICE_CONDITIONS = 256;

/** Most directions that one `find_direction` may give: its table must fit an envelope. */
const MAX_CANDIDATES = 1500;

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
const layer = z.int().min(0).max(100_000);
const count = z
  .int()
  .min(0)
  .max(2 ** 31);
const label = z.string().min(1).max(4096);
const seconds = z.number().min(0);

// ── Interventions ────────────────────────────────────────────────────────────────────────────
/** Names of the rows of `MODES` in worker/sparkablate/interventions.py. */
export const MODES = ["zero", "mean"] as const;
export const mode = z.enum(MODES);
export const positions = z.enum(["all", "not_first"]);
const indices = z.array(layer).min(1).max(4096);
const edit = { layer, mode, positions };

export const intervention = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("head"), heads: indices, ...edit }),
  z.strictObject({ kind: z.literal("kv_group"), groups: indices, ...edit }),
  z.strictObject({ kind: z.literal("attn"), ...edit }),
  z.strictObject({ kind: z.literal("mlp"), ...edit }),
  z.strictObject({ kind: z.literal("layer"), layer, mode: z.literal("skip") }),
  z.strictObject({
    kind: z.literal("direction"),
    op: z.enum(["project_out", "add"]),
    at: z.enum(["writes", "stream"]),
    /** "all" adds the embedding to every layer's writes. */
    layers: z.union([z.literal("all"), indices]),
    coefficient: z.number(),
    positions,
    /** Which vector, as sent by `put`. */
    sha256,
  }),
]);
export type Intervention = z.infer<typeof intervention>;

export const condition = z.strictObject({
  id: label,
  interventions: z.array(intervention).max(4096),
  /** A null condition: the stream leaves this layer moved by one ulp at random. It edits nothing else. */
  nudge: z.strictObject({ layer, seed: count }).optional(),
});
export type Condition = z.infer<typeof condition>;

// ── What a worker says of a model ────────────────────────────────────────────────────────────
export const siteKind = z.enum(["head", "kv_group", "attn", "mlp", "layer", "direction"]);
export type SiteKind = z.infer<typeof siteKind>;

const layerMap = z.strictObject({
  /** Sites that may be edited in this layer. */
  sites: z.array(siteKind),
  /** Query heads, or 0 where the layer has no attention heads. */
  n_heads: count,
  n_kv_heads: count,
  /** Width of a head's slice of the output projection's input. */
  d_head: count,
  /** Module paths, for `inspect`. */
  modules: z.record(z.string(), z.string()),
});

export const modelMap = z.strictObject({
  model_type: label,
  n_layers: count,
  d_model: count,
  vocab_size: count,
  /** Longest sequence the model's positions allow; null where there is no limit. */
  max_positions: count.nullable(),
  parameters: count.or(z.number().int().min(0)),
  layers: z.array(layerMap),
});
export type ModelMap = z.infer<typeof modelMap>;

export const modelConfig = z.strictObject({
  name: label,
  revision: label.nullable(),
  dtype: z.enum(["bfloat16", "float16", "float32"]),
  device: z.enum(["auto", "cuda", "mps", "cpu"]),
  attn_implementation: label.nullable(),
  threads: z.int().min(1).max(1024).nullable(),
  trust_remote_code: z.boolean(),
});
export type ModelConfig = z.infer<typeof modelConfig>;

/** All that changes the bits of a result without changing its meaning. */
export const numerics = z.strictObject({
  dtype: label,
  device: label,
  device_name: label,
  cpu_capability: label,
  attn_implementation: label,
  threads: count,
  tf32: z.boolean(),
  deterministic: z.boolean(),
  /** Whether the loss is taken from full logits because chunks were not bit-equal here. */
  full_logits: z.boolean(),
  versions: z.record(z.string(), z.string()),
});
export type Numerics = z.infer<typeof numerics>;

const selfTest = z.strictObject({
  name: label,
  passed: z.boolean(),
  detail: z.string().max(4096),
  /** Sites refused because of a failure, e.g. "L0.head". */
  refused: z.array(label),
});

export const loadedModel = z.strictObject({
  /** Local directory or Hugging Face id, and the commit that was resolved. */
  source: label,
  revision: label.nullable(),
  model_map: modelMap,
  numerics,
  weights_sha256: sha256,
  tokenizer_sha256: sha256,
  /** The token that stands before every block where add_bos asks for it; null: the tokenizer has none. */
  bos_token_id: count.nullable(),
  /** Whether the tokenizer itself adds it. */
  adds_bos: z.boolean(),
  self_test: z.array(selfTest),
  /** Things a person should know, e.g. a dtype that was replaced. */
  notices: z.array(label),
  seconds,
  /** True where the worker had this model already. */
  reused: z.boolean(),
  /** One unedited pass over a batch of the run's shape, measured at load. */
  cost: z.strictObject({
    /** Layers, and the head with the loss. */
    stack_seconds: seconds,
    head_seconds: seconds,
    /** Largest memory during it, of the process (CPU) or of torch on the device. */
    peak_bytes: z.int().min(0),
    /** Whether conditions start at their first edited layer; else each takes a whole pass. */
    walks: z.boolean(),
  }),
});
export type LoadedModel = z.infer<typeof loadedModel>;

// ── Requests ─────────────────────────────────────────────────────────────────────────────────
const owner = z.strictObject({ run_id: label, pid: count, host: label });
export type Owner = z.infer<typeof owner>;

const base = { id: requestId, session };
const dataset = z.strictObject({
  /** Hugging Face id or a local directory as the worker sees it. */
  path: label,
  config: label.nullable(),
  split: label,
  column: label,
});

/** Sites whose mean activation is wanted. */
const meanSite = z.strictObject({ kind: z.enum(["head", "attn", "mlp"]), layer, positions, width: count });
export type MeanSite = z.infer<typeof meanSite>;

/** Length of each prompt in the payload. */
const promptBytes = z.array(z.int().min(1).max(MAX_PAYLOAD_BYTES)).min(1).max(4096);

/** A mean over held-out prompts and its standard error. */
const estimate = z.strictObject({ value: z.number(), se: z.number().min(0) });
/** null: there is nothing to read the contrast from. `kl`: nats at the negative prompts' next token. */
const directionScores = z.strictObject({
  contrast: estimate.nullable(),
  lowered: estimate.nullable(),
  raised: estimate.nullable(),
  kl: estimate,
});
export const directionCandidate = z.strictObject({
  layer,
  /** Counted from the prompts' end; 1 is the last token. */
  position: count,
  norm: z.number(),
  split_half_cosine: z.number(),
  /** Mean and 5 % quantile of the bootstrap samples' cosines with the direction. */
  bootstrap_cosine: z.number(),
  bootstrap_cosine_low: z.number(),
  ...directionScores.shape,
  /** The same scores of a random direction of the same norm at the same place. */
  random: directionScores,
});
export type DirectionCandidate = z.infer<typeof directionCandidate>;

export const requests = {
  hello: z.strictObject({ type: z.literal("hello"), id: requestId, schema_sha256: sha256, owner }),
  ping: z.strictObject({ type: z.literal("ping"), ...base }),
  load: z.strictObject({
    type: z.literal("load"),
    ...base,
    model: modelConfig,
    seq_len: count,
    batch_size: count,
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
  /** Payload: int32 [blocks, seq_len]. */
  calibrate: z.strictObject({
    type: z.literal("calibrate"),
    ...base,
    seq_len: count,
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
  /** One slice. Payload: int32 [blocks, seq_len]. */
  evaluate: z.strictObject({
    type: z.literal("evaluate"),
    ...base,
    seq_len: z.int().min(2),
    blocks: z.array(count).min(1).max(65_536),
    conditions: z.array(condition).min(1).max(MAX_SLICE_CONDITIONS),
    metrics: z.array(label).min(1).max(16),
    /** Which means `mode: mean` uses; null where no condition needs them. */
    means_sha256: sha256.nullable(),
  }),
  /** Greedy continuations of every prompt under every condition. Payload: the prompts' UTF-8, one after another. */
  generate: z.strictObject({
    type: z.literal("generate"),
    ...base,
    prompt_bytes: promptBytes,
    conditions: z.array(condition).min(1).max(MAX_SLICE_CONDITIONS),
    max_new_tokens: z.int().min(1).max(65_536),
    /** Each prompt as a user's message in the model's chat template. */
    chat_template: z.boolean(),
    means_sha256: sha256.nullable(),
  }),
  /** Writes one condition into the weights of the loaded model; afterwards no model is loaded. Never sent twice. */
  bake: z.strictObject({
    type: z.literal("bake"),
    ...base,
    condition,
    /** Absolute path of the directory to make, as the worker sees it. */
    out: label,
    dtype: z.enum(["float32", "source"]),
    /** Skipped layers are deleted instead of made the identity. */
    prune_layers: z.boolean(),
    /** Whether a directory that an earlier bake made may be replaced. */
    force: z.boolean(),
    means_sha256: sha256.nullable(),
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
    chat_template: z.boolean(),
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
  edit: z.strictObject({
    edited: count,
    /** Tensors that are the source's, byte for byte or exactly cast. */
    equal: count,
    /** Largest error of an edited tensor, over its norm. */
    largest_residual: z.number().min(0),
  }),
  behaviour: z.strictObject({
    /** Largest difference to the live intervention's logits, over the largest logit. */
    logit_difference: z.number().min(0),
    tolerance: z.number().min(0),
    /** The same between two algebraically equal live runs; null where the two sides have no reason to differ. */
    floor: z.number().min(0).nullable(),
    largest_logit: z.number().min(0),
    /** KL(live ‖ baked), nats a position. */
    kl: z.number().min(0),
    nll: z.number().min(0),
    delta_nll: z.number(),
    positions: count,
    /** Positions whose chosen experts differ, and positions left out for it. */
    rerouted: count,
    left_out: count,
  }),
});

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
  }),
  ping: empty,
  load: loadedModel,
  inspect: z.strictObject({ model_map: modelMap, self_test: z.array(selfTest) }),
  /** Payload: int32 [tokens]. */
  tokenize: z.strictObject({ tokens: count, truncated: z.boolean() }),
  /** Payload: float32, the sites' means one after the other. */
  calibrate: z.strictObject({ sites: z.array(meanSite), sha256, tokens: count }),
  put: empty,
  /** Payload: float32 [d_model], of unit length. `norm`: the length that was divided out, or was recorded. */
  read_direction: z.strictObject({ norm: z.number(), layer: layer.nullable() }),
  evaluate: z.strictObject({ measured: count, failed: count, cancelled: z.boolean(), seconds }),
  /** `prompt_tokens`: of each prompt, special tokens and template included. */
  generate: z.strictObject({
    prompt_tokens: z.array(count),
    cancelled: z.boolean(),
    /** Settings of the model's generation config that change the choice of tokens. */
    notices: z.array(label),
    seconds,
  }),
  bake: z.strictObject({
    directory: label,
    condition: label,
    files: count,
    bytes: z.int().min(0),
    certificate,
    /** What a person should know before another program reads it. */
    notes: z.array(label),
    /** null where llama.cpp is known to read it wrongly. */
    gguf_command: label.nullable(),
    seconds,
  }),
  /** Payload: float32 [candidates, d_model], unit vectors. */
  find_direction: z.strictObject({
    candidates: z.array(directionCandidate).max(MAX_CANDIDATES),
    /** Indices of the prompts that were scored, not averaged. */
    held_out: z.strictObject({ positive: z.array(count), negative: z.array(count) }),
    contrast: z.enum(["separation", "log_odds"]),
    seconds,
  }),
  cancel: empty,
  goodbye: empty,
  shutdown: empty,
} as const satisfies Record<RequestType, z.ZodType>;

export type Result<T extends RequestType = RequestType> = z.infer<(typeof results)[T]>;

export const reply = z.strictObject({ type: z.literal("reply"), id: requestId, result: z.unknown() });

export const wireError = z.strictObject({
  code: z.enum(ERROR_CODES),
  message: z.string().max(65_536),
  /** Python traceback. */
  detail: z.string().max(262_144),
});
export type WireError = z.infer<typeof wireError>;

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
  /** One condition on the slice's blocks. Payload: float64 [columns, blocks]; empty where it failed. */
  measurement: z.strictObject({
    type: z.literal("measurement"),
    id: requestId,
    condition: label,
    /** Names of the payload's rows: sums over the block's predicted tokens. */
    columns: z.array(label).max(64),
    /** Predicted tokens a block. */
    tokens: count,
    seconds,
    flags: z.array(label),
    error: wireError.nullable(),
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
  events.generation,
  events.log,
]);
export type FromWorker = z.infer<typeof fromWorker>;
