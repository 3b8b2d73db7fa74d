/**
 * What exists: sites, modes, positions, operations, metrics, and the limits that both languages keep. Pure data.
 *
 * The wire's messages, the config's keys, ids, overlaps, sweeps, flags, charts and their words derive from it, and
 * `npm run generate` writes it, without its words, to `worker/sparkablate/catalog.json`. Python adds functions only:
 * a name that lacks one, or that stands there alone, fails when the package is imported. Names, fields and limits are
 * part of the schema's hash; words are not.
 */

export interface Site {
  /** The smallest site that it is a part of: what edits both in one layer overlaps. null: part of nothing. */
  readonly within: string | null;
  /** Of a site whose parts are edited one by one: how specs, maps and messages name them. null: it is edited whole. */
  readonly parts: Parts | null;
  /** How it is edited: by the `MODES`, by being skipped, or as a direction. */
  readonly edit: "mode" | "skip" | "direction";
  /** The site whose tensor holds its values, and so its mean and what resample and patch put in; null: it has none. A layer has a mean only: of the sum of its writes. */
  readonly values: string | null;
  /** `ablation.sweep` that goes over all of them; null: there is none. */
  readonly sweep: string | null;
  /** What is removed, in words. */
  readonly words: string;
}

export interface Parts {
  /** Key of a spec that lists them. */
  readonly field: string;
  /** Key of the model's map that counts them in a layer. */
  readonly count: string;
  /** Map key that counts the parts of the site within it, which it holds in equal runs. null: it holds none. */
  readonly holds: "n_heads" | null;
  /** One of them, in messages. */
  readonly one: string;
  /** All of them, for help. */
  readonly words: string;
}

/** In canonical order: that of ids, of a map's list, of a condition's interventions within a layer. */
export const SITES = {
  head: {
    within: "kv_group",
    parts: { field: "heads", count: "n_heads", holds: null, one: "head", words: "query heads" },
    edit: "mode",
    values: "head",
    sweep: "heads",
    words: "attention head",
  },
  kv_group: {
    within: "attn",
    parts: { field: "groups", count: "n_kv_heads", holds: "n_heads", one: "group", words: "key/value heads" },
    edit: "mode",
    values: "head",
    sweep: "kv_groups",
    words: "key/value group",
  },
  attn: {
    within: "layer",
    parts: null,
    edit: "mode",
    values: "attn",
    sweep: "attn",
    words: "attention block",
  },
  neuron: {
    within: "mlp",
    parts: { field: "neurons", count: "n_neurons", holds: null, one: "neuron", words: "MLP neurons" },
    edit: "mode",
    values: "neuron",
    sweep: null,
    words: "MLP neuron",
  },
  mlp: { within: "layer", parts: null, edit: "mode", values: "mlp", sweep: "mlp", words: "MLP" },
  layer: { within: null, parts: null, edit: "skip", values: "layer", sweep: "layers", words: "layer" },
  direction: {
    within: "layer",
    parts: null,
    edit: "direction",
    values: null,
    sweep: null,
    words: "direction",
  },
} as const satisfies Record<string, Site>;

export interface ModeRow {
  /** What it puts in the values' place besides: the site's calibrated mean, or a donor: what it has on other tokens. */
  readonly needs: "mean" | "donor" | null;
}

/** What becomes of a site's values. */
export const MODES = {
  zero: { needs: null },
  mean: { needs: "mean" },
  resample: { needs: "donor" },
  patch: { needs: "donor" },
} as const satisfies Record<string, ModeRow>;

/** What becomes of a whole layer: its output is its input, or its input and the mean of what the layer adds to it. */
export const LAYER_MODES = ["skip", "mean"] as const;

/** `not_first` leaves every block's first position alone. */
export const POSITIONS = ["all", "not_first"] as const;

/** What is done with a direction, and where: the first place is the default. */
export const OPERATIONS = {
  project_out: ["writes", "stream"],
  add: ["stream"],
} as const;

export interface MetricRow {
  /** What it gives, in the worker's order. */
  readonly columns: readonly string[];
  /** What it needs besides the condition's logits: the unedited model's (whose stack and head then run once more), or a wrong answer. */
  readonly needs: "baseline" | "wrong" | null;
  /** Whether its columns say something of a condition alone: then their change from the baseline stands beside them. */
  readonly isLevel: boolean;
  /** In which runs of a task it is measured unasked. */
  readonly of: "no task" | "every task" | "tasks with wrong answers";
  /** How the values at the tokens of a task's answer become the item's: 1 where it is 1 at "every" one. */
  readonly item: "mean" | "sum" | "every";
}

export const METRICS = {
  nll: { columns: ["nll"], needs: null, isLevel: false, of: "every task", item: "mean" },
  kl: { columns: ["kl"], needs: "baseline", isLevel: false, of: "no task", item: "mean" },
  top1: { columns: ["top1", "top1_ties"], needs: "baseline", isLevel: false, of: "no task", item: "mean" },
  logit_diff: {
    columns: ["logit_diff"],
    needs: "wrong",
    isLevel: true,
    of: "tasks with wrong answers",
    item: "sum",
  },
  accuracy: { columns: ["accuracy"], needs: null, isLevel: true, of: "every task", item: "every" },
} as const satisfies Record<string, MetricRow>;

const limits = {
  /** Bytes of a message's first frame. */
  envelope_bytes: 1 << 20,
  /** Bytes of its second: 4 million tokens. */
  payload_bytes: 16 << 20,
  /** Conditions in one slice. */
  slice_conditions: 256,
  /** Directions that one `find_direction` may give: its table must fit an envelope. */
  candidates: 1500,
  /** Layers, heads, …: the largest index. */
  index: 100_000,
  /** Parts or layers that one intervention may list, and interventions that one condition may have. */
  listed: 4096,
  /** Characters of an id: a longer one is replaced by a digest of itself, since ids stand in tables and file names. */
  id_length: 1000,
  /** Sites whose activations on other tokens a worker keeps at a time. */
  kept_donors: 8,
};
export const LIMITS: Readonly<typeof limits> = limits;

/**
 * Environment variables that decide what is loaded or the bits of a result, as a pattern of both languages: two workers of
 * the same code, started where these are equal, compute the same.
 */
export const DECIDING_VARIABLES =
  "^(?:(?:ATEN|BLIS|CUBLAS|CUBLASLT|CUDA|CUDNN|DNNL|GOMP|HF|HUGGINGFACE|KMP|MKL|NCCL|NVIDIA|OMP|ONEDNN|OPENBLAS" +
  "|PYTORCH|TORCH|TORCHINDUCTOR|TRANSFORMERS|VECLIB)_(?!TOKEN$).*|GLIBC_TUNABLES|HOME|LD_LIBRARY_PATH|LD_PRELOAD" +
  "|PYTHONHASHSEED|PYTHONPATH|SPARKABLATE_HOME|TORCH|XDG_CACHE_HOME)$";

export type SiteKind = keyof typeof SITES;
export type Mode = keyof typeof MODES;
export type LayerMode = (typeof LAYER_MODES)[number];
export type Positions = (typeof POSITIONS)[number];
export type MetricName = keyof typeof METRICS;

type Where<K extends keyof Site, V> = {
  [S in SiteKind]: (typeof SITES)[S][K] extends V ? S : never;
}[SiteKind];

/** Sites that a mode acts on. */
export type ModedKind = Where<"edit", "mode">;
/** Sites with a tensor of their own: those that have a mean, and a donor. */
export type ValueKind = Exclude<(typeof SITES)[SiteKind]["values"], null>;
type PartsOf<S extends SiteKind> = Exclude<(typeof SITES)[S]["parts"], null>;
/** Keys of a spec that list parts, e.g. `heads`. */
export type PartField = PartsOf<SiteKind>["field"];
/** Keys of a layer's map that count parts, e.g. `n_heads`. */
export type PartCount = PartsOf<SiteKind>["count"];
/** Modes that put in what the site has in a forward pass of other tokens, row by row and position by position. */
export type DonorMode = { [M in Mode]: (typeof MODES)[M]["needs"] extends "donor" ? M : never }[Mode];
/** The field that lists a site's parts, where it has any. */
export type Listing<S extends SiteKind> =
  PartsOf<S> extends never ? unknown : { [F in PartsOf<S>["field"]]: number[] };
/** Sweeps over one kind of site. */
export type SiteSweep = Exclude<(typeof SITES)[SiteKind]["sweep"], null>;

export const SITE_KINDS = Object.keys(SITES) as [SiteKind, ...SiteKind[]];
export const MODE_NAMES = Object.keys(MODES) as [Mode, ...Mode[]];
export const METRIC_NAMES = Object.keys(METRICS) as [MetricName, ...MetricName[]];
export const MODED_KINDS = SITE_KINDS.filter((kind) => SITES[kind].edit === "mode") as ModedKind[];
export const VALUE_KINDS = SITE_KINDS.filter((kind) => SITES[kind].values === kind) as [
  ValueKind,
  ...ValueKind[],
];
export const DONOR_MODES = MODE_NAMES.filter((mode) => MODES[mode].needs === "donor") as [
  DonorMode,
  ...DonorMode[],
];
/** As help lists them: the whole layer first. */
export const SITE_SWEEPS = SITE_KINDS.flatMap((kind) => SITES[kind].sweep ?? []).sort(
  (a, b) => Number(b === "layers") - Number(a === "layers"),
) as [SiteSweep, ...SiteSweep[]];

/**
 * What its parts are called and where they are counted; null: the site is edited whole, as one is that a package
 * registered in Python, which stands in its runs alone.
 */
export const partsOf = (
  kind: SiteKind,
): (Parts & { readonly field: PartField; readonly count: PartCount }) | null =>
  (SITES as Partial<typeof SITES>)[kind]?.parts ?? null;
