/**
 * The config's keys, their types, limits and defaults: all of them live here. What comes out is
 * complete: every default filled in, every path absolute, every target a list of full specs.
 */
import { z } from "zod";
import { overlaps } from "../conditions/overlaps.ts";
import { SparkablateError } from "../errors.ts";
import {
  DONOR_MODES,
  LAYER_MODES,
  type LayerMode,
  LIMITS,
  type Listing,
  METRIC_NAMES,
  MODE_NAMES,
  MODED_KINDS,
  type Mode,
  type ModedKind,
  OPERATIONS,
  POSITIONS,
  type Positions,
  partsOf,
  SITE_KINDS,
  SITE_SWEEPS,
} from "../protocol/catalog.ts";
import type { Intervention } from "../protocol/messages.ts";
import { type Named, specsOf } from "./condition-text.ts";
import { dataset, donorFile, TRAINING_WIKITEXT, taskFile, usesWikitext, WIKITEXT } from "./datasets.ts";
import { clashesOf } from "./features.ts";
import {
  choice,
  decimal,
  indices,
  kinds,
  layerIndices,
  leaf,
  oneOrMore,
  optionalSection,
  section,
  whole,
} from "./leaves.ts";
import { asksFor, mixesLists, onceAMode } from "./modes.ts";
import { existingFile, modelName, outputDirectory, resolved, runDirectory } from "./paths.ts";

interface SchemaOptions {
  /** Where the user stands. */
  readonly cwd: string;
  /** Whether --trust-remote-code was given. */
  readonly trustRemoteCode: boolean;
  /** output.dir where the file does not say. */
  readonly outputDir: string;
  /** Whether the files of text that it names have to be there. */
  readonly texts: boolean;
  /** What ids may name beside sites. */
  readonly named: Named;
}

const SWEEPS = [...SITE_SWEEPS, "pairs", "custom"] as const;
/** Above it, the pairs are more than 79,800. */
const MOST_COMPONENTS = 400;
const BYTES_PER_TOKEN = 4;
/** Of one run. */
const MOST_TEXTS = 16;

const text = (allowed: string) => {
  const params = leaf(allowed);
  return z.string(params).min(1, params).max(4096, params);
};

function model({ cwd, trustRemoteCode }: SchemaOptions) {
  return section({
    /** Hugging Face id, absolute path of a model directory, or `builtin:smollm2-135m`. */
    name: modelName(cwd),
    /** Commit, branch or tag of a Hugging Face model; null: its main branch. */
    revision: text("a commit, branch or tag in quotes, or null").nullable().default(null),
    /**
     * Of the weights and of the computation; default auto: float32 on a CPU with memory for it, else the checkpoint's.
     * float32 is IEEE: TF32 is off.
     */
    dtype: choice(["auto", "bfloat16", "float16", "float32"]).default("auto"),
    /** auto: cuda before mps before cpu. */
    device: choice(["auto", "cuda", "mps", "cpu"]).default("auto"),
    /** auto: layers that the device has no room for go to its like, to main memory, to disk; null: refused. */
    device_map: choice(["auto"]).nullable().default(null),
    /** As in transformers, e.g. sdpa or eager; null: the model's default. */
    attn_implementation: text("an attention implementation of transformers, like sdpa or eager, or null")
      .nullable()
      .default(null),
    /** CPU threads; null: torch's default. Changes the last bits, so it is part of a run's identity. */
    threads: whole(1, 1024).nullable().default(null),
    /** Runs code from the model's repository: needs `trustRemoteCode` in ConfigOptions and a pinned commit. */
    trust_remote_code: z.boolean(leaf("true, false")).default(false),
  }).superRefine((value, context) => {
    if (!value.trust_remote_code) return;
    const refuse = (key: string, message: string) =>
      context.addIssue({ code: "custom", path: [key], message });
    if (!trustRemoteCode) {
      refuse("trust_remote_code", "true runs code from the model's repository: pass --trust-remote-code too");
    }
    if (!value.name.startsWith("/") && !/^[0-9a-f]{40}$/.test(value.revision ?? "")) {
      refuse("revision", "is not pinned: with trust_remote_code, name a commit (40 hexadecimal digits)");
    }
  });
}

function evaluation({ cwd, texts }: SchemaOptions) {
  const addBos = leaf("auto, true, false");
  return section({
    /** Evaluation text: absolute path of a `.txt` file, or a data set with its split and column; null with a task. */
    dataset: dataset(cwd, texts).nullable().optional(),
    /** Further texts: of each as many blocks as of dataset, in turn, and effects are means over the texts. */
    also: z
      .array(dataset(cwd, texts), leaf("a list of texts"))
      .min(1, { error: "an empty list adds no text: leave it out" })
      .max(MOST_TEXTS - 1)
      .optional(),
    /** Instead of a text: absolute path of a `.jsonl` file with one `{prompt, answer, wrong?}` a line. */
    task: taskFile(cwd, texts).nullable().default(null),
    /** Text for the means; null: blocks of the text, or items of the task, that evaluation does not use. */
    calibration: dataset(cwd, texts).nullable().default(null),
    /** Tokens a block, a BOS token included; the most that an item of a task may have. */
    seq_len: whole(2, 1 << 20).default(1024),
    /** Blocks, or items, a batch. */
    batch_size: whole(1, 4096).default(4),
    /** Batches to evaluate; null: the whole text, at most 4 million tokens, or the whole task. */
    max_batches: whole(1, 1_000_000).nullable().default(16),
    /** Batches at the head of the seed's order that this run leaves to others (report --confirm). */
    skip_batches: whole(0, 1_000_000).default(0),
    /** Batches for the means, where a condition needs one. */
    calibration_batches: whole(1, 1_000_000).default(8),
    /** Whether a BOS token stands before every block or item; auto: as the tokenizer itself does, and always for models that need it (Gemma). */
    add_bos: z.union([z.literal("auto"), z.boolean()], addBos).default("auto"),
    /** Which blocks or items, in which order. */
    seed: whole(0, Number.MAX_SAFE_INTEGER).default(0),
    /** nll always; the others on request; a task has accuracy and, with wrong answers, logit_diff unasked. */
    metrics: z
      .array(choice(METRIC_NAMES), leaf(`a list of ${METRIC_NAMES.join(", ")}`))
      .transform((names) => METRIC_NAMES.filter((name) => name === "nll" || names.includes(name)))
      .prefault([]),
  })
    .superRefine(({ seq_len, batch_size, calibration_batches, ...value }, context) => {
      const limit = LIMITS.payload_bytes / BYTES_PER_TOKEN;
      const refuse = (key: string, message: string) =>
        context.addIssue({ code: "custom", path: [key], message });
      checkSource(value, refuse);
      checkTexts({ batch_size, ...value }, refuse);
      if (seq_len * batch_size > limit) {
        refuse(
          "batch_size",
          `a batch of ${batch_size} blocks of ${seq_len} tokens is too large; allowed: up to ${limit} tokens per batch`,
        );
      } else if (seq_len * batch_size * calibration_batches > limit) {
        const most = Math.floor(limit / (seq_len * batch_size));
        refuse(
          "calibration_batches",
          `${calibration_batches} does not fit; allowed: up to ${most} of this size`,
        );
      }
    })
    .transform((value) => ({
      ...value,
      /** Evaluation text: absolute path of a `.txt` file, or a data set with its split and column; null with a task. */
      dataset: value.task === null ? (value.dataset ?? WIKITEXT) : null,
      /** Text for the means; null: blocks of the text, or items of the task, that evaluation does not use. */
      calibration:
        value.calibration ??
        (value.task === null && usesWikitext(value.dataset ?? WIKITEXT) ? TRAINING_WIKITEXT : null),
    }));
}

interface WrittenTexts {
  readonly dataset?: unknown;
  readonly also?: readonly unknown[] | undefined;
  readonly task: string | null;
  readonly batch_size: number;
}

/** A batch has as many blocks of one text as of the other, so that a round of a race has, too. */
function checkTexts(
  { dataset, also, task, batch_size }: WrittenTexts,
  refuse: (key: string, message: string) => void,
): void {
  if (also === undefined) return;
  if (task !== null) refuse("also", "cannot be combined with task: a task is measured alone");
  const texts = 1 + also.length;
  const named = [dataset, ...also].map((source) => JSON.stringify(source));
  if (new Set(named).size < texts) refuse("also", "names a text twice: its blocks would count twice");
  if (batch_size % texts !== 0)
    refuse("batch_size", `${batch_size} does not fit ${texts} texts; allowed: multiples of ${texts}`);
}

/** A text or a task. */
function checkSource(
  { dataset, task }: { dataset?: unknown; task: string | null },
  refuse: (key: string, message: string) => void,
): void {
  if (task !== null && dataset != null)
    refuse("task", "cannot be combined with dataset: name a text (dataset) or prompts with answers (task)");
  if (task === null && dataset === null) refuse("dataset", "is empty, and so is task: set one of them");
}

/** Negative ones are counted from the last layer, which the plan knows. */
const layerNumber = (() => {
  const params = leaf(
    `a layer number from 0 to ${LIMITS.index}, or -1 for the last layer, -2 for the one before`,
  );
  return z.int(params).min(-LIMITS.index, params).max(LIMITS.index, params);
})();
const layerList = () => {
  const allowed = "all, or different layer numbers, like [0, 4, 8], 0..5 or 0..5,-1";
  return z.union([z.literal("all"), layerIndices(allowed)], leaf(allowed));
};

function directionKeys(cwd: string) {
  const allowed = "a direction file: .safetensors or .pt";
  return {
    /** Of a `.safetensors` or `.pt` file. */
    path: resolved(allowed, (written, complain) => {
      if (/\.(safetensors|pt)$/.test(written)) return existingFile(written, cwd, complain);
      complain("config_invalid", `"${written}" is not a direction file`);
      return undefined;
    }),
    /** Removes the direction, or adds it. */
    op: choice(Object.keys(OPERATIONS) as [keyof typeof OPERATIONS]),
    /** Every tensor that is added to the residual stream, or the stream where it leaves a layer. */
    at: choice(OPERATIONS.project_out).optional(),
    /** null: project_out acts on all layers, add on the one in its file. */
    layers: layerList().nullable().default(null),
    /** 1 removes all of it, or adds it once. */
    coefficient: decimal(-1e6, 1e6).default(1),
    /** `not_first` leaves every block's first position alone. */
    positions: choice(POSITIONS).optional(),
  };
}

interface DirectionSpec {
  op: keyof typeof OPERATIONS;
  at?: (typeof OPERATIONS)["project_out"][number] | undefined;
}

function checkDirection({ op, at }: DirectionSpec, context: z.RefinementCtx): void {
  const places: readonly string[] = OPERATIONS[op];
  if (at === undefined || places.includes(at)) return;
  const message = `${at} does not fit op: ${op}; allowed: ${places.join(", ")}`;
  context.addIssue({ code: "custom", path: ["at"], message });
}

function targetSpec(cwd: string) {
  const layer = layerNumber;
  const edit = {
    /** From 0. */
    layer,
    /** What stands in the values' place: zeros, the site's mean, or what it has on other tokens; of a list, one condition a mode. */
    mode: oneOrMore(MODE_NAMES).optional(),
    /** `not_first` leaves every block's first position alone. */
    positions: choice(POSITIONS).optional(),
  };
  const sites = MODED_KINDS.map((kind) => {
    const parts = partsOf(kind);
    const list = parts && indices(`a list of different ${parts.one} numbers, like [3, 7]`);
    return section({
      kind: z.literal(kind),
      ...(parts && { [parts.field]: list }),
      ...edit,
    });
  });
  return z.discriminatedUnion(
    "kind",
    [
      section({
        kind: z.literal("layer"),
        /** From 0. */
        layer,
        /** Its output is its input, for which zero is another word; or that and the mean of what the layer adds to it. */
        mode: choice([...LAYER_MODES, "zero"])
          .transform((mode): LayerMode => (mode === "zero" ? "skip" : mode))
          .default("skip"),
      }),
      section({ kind: z.literal("direction"), ...directionKeys(cwd) }).superRefine(checkDirection),
      // Made from data, so that their types have to be said.
      ...(sites as unknown as [z.ZodType<WrittenSite> & (typeof sites)[number]]),
    ],
    kinds(SITE_KINDS),
  );
}

/** A target's spec of a site that a mode acts on, as it is written. */
type WrittenSite<K extends ModedKind = ModedKind> = {
  [S in K]: {
    kind: S;
    layer: number;
    /** What stands in the values' place: zeros, the site's mean, or what it has on other tokens; of a list, one condition a mode. */
    mode?: Mode | Mode[] | undefined;
    /** `not_first` leaves every block's first position alone. */
    positions?: Positions | undefined;
  } & Listing<S>;
}[K];

function ablation({ cwd, texts, named }: SchemaOptions) {
  const entry = z.preprocess(
    (value, context) =>
      (Array.isArray(value) ? value : [value]).flatMap((spec: unknown) => {
        if (typeof spec !== "string") return [spec];
        try {
          return specsOf(spec, named);
        } catch (error) {
          if (!(error instanceof SparkablateError)) throw error;
          const { code, message } = error;
          context.addIssue({ code: "custom", message, params: { code } });
          return [];
        }
      }),
    z
      .array(targetSpec(cwd))
      .min(1, { error: "an empty list edits nothing: give one spec, or a list of specs" })
      .max(4096),
  );
  return section({
    /** Of the conditions that a sweep makes: each once a mode where it is a list. */
    mode: oneOrMore(MODE_NAMES).default("zero"),
    /**
     * One condition for every layer, head, …; pairs: the largest effects of an earlier run, each alone and every two
     * together; custom: what `targets` and `directions` list.
     */
    sweep: choice(SWEEPS).default("layers"),
    /** Layers, from 0, that a sweep goes over. */
    layers: layerList().default("all"),
    /** Of `sweep: pairs`: absolute path of the earlier run's directory, which must be finished. */
    from: runDirectory(cwd).nullable().default(null),
    /** Of `sweep: pairs`: how many of the earlier run's conditions, those with the largest Δ NLL. */
    top: whole(2, MOST_COMPONENTS).nullable().default(null),
    /** At which positions an edit acts and a mean is taken. */
    positions: choice(POSITIONS).default("all"),
    /** Of mode patch: absolute path of a `.jsonl` file whose n-th line is the source of the task's n-th item. */
    source: donorFile(cwd, texts).nullable().default(null),
    /** One condition an entry: the specs that are applied jointly. */
    targets: z.array(entry, leaf("a list of targets")).nullable().default(null),
    /** Edits that everything is measured on top of, the baseline too: specs, or ids. */
    given: z.array(entry, leaf("a list of specs, or of ids like L3.head[2].zero")).nullable().default(null),
    /** Directions, one condition each. */
    directions: z
      .array(section(directionKeys(cwd)).superRefine(checkDirection), leaf("a list of directions"))
      .nullable()
      .default(null),
  })
    .superRefine(checkAblation)
    .transform(({ targets, directions, given, ...sweep }) => ({
      ...sweep,
      // Absent where there are none: what a run is does not change by a key that says nothing.
      ...((given ?? []).length > 0 && {
        /** Edits that everything is measured on top of, the baseline too; absent: none. */
        given: (given ?? []).map((specs) => specs.map((spec) => complete(spec, sweep))),
      }),
      /** One condition an entry: the specs that are applied jointly. */
      targets: (targets ?? []).map((specs) => specs.map((spec) => complete(spec, sweep))),
      /** Directions, one condition each. */
      directions: (directions ?? []).map((spec) => completeDirection(spec, sweep)),
    }))
    .superRefine(({ targets, given = [] }, context) => {
      const refuse: Refuse = (key, index, message, code) =>
        context.addIssue({ code: "custom", path: [key, index], message, ...(code && { params: { code } }) });
      checkTargets(targets, refuse);
      checkGiven(given, refuse);
    });
}

type Refuse = (key: "targets" | "given", index: number, message: string, code?: "conditions_overlap") => void;
type Entries = readonly (readonly ReturnType<typeof complete>[])[];

function checkTargets(targets: Entries, refuse: Refuse): void {
  for (const [index, specs] of targets.entries()) {
    if (mixesLists(specs)) {
      refuse(
        "targets",
        index,
        "its specs list different modes: give them all the same list, or one mode each",
      );
      continue;
    }
    // What overlaps in one mode does in every other.
    const sites = onceAMode(specs)[0]?.filter((spec) => spec.kind !== "direction") ?? [];
    for (const message of overlaps(sites, null)) refuse("targets", index, message, "conditions_overlap");
  }
}

function checkGiven(given: Entries, refuse: Refuse): void {
  for (const [index, specs] of given.entries())
    if (specs.some((spec) => "mode" in spec && typeof spec.mode !== "string"))
      refuse("given", index, "everything is measured on top of it once: name one mode, e.g. zero");
}

interface WrittenAblation {
  mode: Mode | Mode[];
  sweep: (typeof SWEEPS)[number];
  layers: "all" | number[];
  from: string | null;
  top: number | null;
  positions: Positions;
  targets: unknown[] | null;
  directions: unknown[] | null;
}

function checkAblation(value: WrittenAblation, context: z.RefinementCtx): void {
  const refuse = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
  if (value.sweep === "custom") {
    if ((value.targets ?? []).length + (value.directions ?? []).length === 0) {
      refuse("sweep", "custom has nothing to measure: add an entry to targets or directions");
    }
    if (value.layers !== "all")
      refuse("layers", "has no effect with sweep: custom: name the layer in each target");
  }
  checkPairs(value, refuse);
}

function checkPairs(value: WrittenAblation, refuse: (key: string, message: string) => void): void {
  for (const key of ["from", "top"] as const) {
    if (value.sweep !== "pairs" && value[key] !== null) refuse(key, `works only with sweep: pairs`);
  }
  if (value.sweep !== "pairs") return;
  if (value.from === null) refuse("from", "is missing: sweep: pairs needs the directory of a finished run");
  if (value.top === null)
    refuse("top", `is missing: sweep: pairs needs it; allowed: a whole number from 2 to ${MOST_COMPONENTS}`);
  if ((value.targets ?? []).length + (value.directions ?? []).length > 0) return;
  for (const [key, plain] of [
    ["mode", "zero"],
    ["positions", "all"],
  ] as const) {
    if (value[key] !== plain)
      refuse(
        key,
        "has no effect with sweep: pairs, which uses the edits of the run that `from` names: leave it out",
      );
  }
}

type Defaults = Pick<WrittenAblation, "mode" | "positions">;
type WrittenTarget = z.output<ReturnType<typeof targetSpec>>;
type WrittenDirection = Omit<Extract<WrittenTarget, { kind: "direction" }>, "kind">;

function complete(spec: WrittenTarget, defaults: Defaults) {
  if (spec.kind === "layer") return spec;
  if (spec.kind === "direction") return { kind: spec.kind, ...completeDirection(spec, defaults) };
  return {
    ...spec,
    /** What stands in the values' place: zeros, the site's mean, or what it has on other tokens; of a list, one condition a mode. */
    mode: spec.mode ?? defaults.mode,
    /** `not_first` leaves every block's first position alone. */
    positions: spec.positions ?? defaults.positions,
  };
}

function completeDirection(spec: WrittenDirection, defaults: Defaults) {
  const { path, op, at, layers, coefficient, positions } = spec;
  return {
    /** Absolute path of a `.safetensors` or `.pt` file. */
    path,
    /** Removes the direction, or adds it times `coefficient` and its norm. */
    op,
    /** Every tensor that is added to the residual stream, or the stream where it leaves a layer. */
    at: at ?? OPERATIONS[op][0],
    /** all: of project_out, the embedding too; null: the layer that the file names. */
    layers: layers ?? (op === "add" ? null : ("all" as const)),
    /** 1 removes all of it, or adds it once. */
    coefficient,
    /** `not_first` leaves every block's first position alone. */
    positions: positions ?? defaults.positions,
  };
}

/** `confidence` of 1 would need infinite intervals, of a half or less promises nothing. */
const confidence = decimal(0.5, 0.9999);

const stop = () =>
  section({
    /** How many of the largest effects to settle. */
    top: whole(1, 100_000).optional(),
    /** Instead of top: how many of the smallest. */
    bottom: whole(1, 100_000).optional(),
    /** Approximate, see docs/statistics.md. */
    confidence: confidence.default(0.95),
    /** Nats per token within which two effects count as equal. */
    tolerance: decimal(0, 1000).default(0.002),
  }).superRefine(({ top, bottom }, context) => {
    const refuse = (key: string, message: string) =>
      context.addIssue({ code: "custom", path: [key], message });
    if (top === undefined && bottom === undefined)
      refuse(
        "top",
        "is missing: say how many of the largest effects to settle, or bottom, how many of the smallest",
      );
    if (top !== undefined && bottom !== undefined)
      refuse("bottom", "cannot be combined with top: a race settles one end of the ranking");
  });

export function runConfigSchema(options: SchemaOptions) {
  const run = section({
    /** What is loaded, and how it computes. */
    model: model(options),
    /** On which text, and how much of it. */
    eval: optionalSection(evaluation(options)),
    /** Which conditions. */
    ablation: optionalSection(ablation(options)),
    /** Ends early when the top, or the bottom, is settled; null: every condition sees every block. */
    stop: stop().nullable().default(null),
    /** Where the results go. */
    output: optionalSection(
      section({
        /** Absolute path of the run directory. */
        dir: outputDirectory(options.cwd).prefault(options.outputDir),
      }),
    ),
  });
  return run.superRefine(({ ablation, stop, eval: evaluated }, context) => {
    // What is wrong in itself was not completed, and has been said.
    const whole = context.issues.length === 0;
    if (whole && ablation != null && evaluated != null) checkSources(ablation, evaluated, context);
    const clashing = clashesOf({
      eval: evaluated,
      ablation:
        whole || ablation == null ? ablation : { ...ablation, targets: [], directions: [], given: [] },
      stop,
    });
    for (const { path, refusal } of clashing)
      context.addIssue({
        code: "custom",
        path: [...path],
        message: refusal.sentence,
        params: { code: refusal.code },
      });
  });
}

/** A source is needed where something is patched, and has no effect elsewhere; sweep: pairs takes its modes from a run. */
function checkSources(
  ablation: AblationConfig,
  { seq_len, batch_size }: Pick<RunConfig["eval"], "seq_len" | "batch_size">,
  context: z.RefinementCtx,
): void {
  const refuse = (path: string[], message: string) => context.addIssue({ code: "custom", path, message });
  const patches = asksFor(ablation, "patch");
  const { source, sweep } = ablation;
  if (patches && source === null)
    refuse(
      ["ablation", "source"],
      "is missing: mode patch needs a .jsonl file with one donor line for each item of the task",
    );
  if (!patches && source !== null && sweep !== "pairs")
    refuse(["ablation", "source"], "works only with mode: patch");
  const donors = DONOR_MODES.filter((mode) => asksFor(ablation, mode)).length;
  const limit = LIMITS.payload_bytes / BYTES_PER_TOKEN;
  if (donors > 0 && seq_len * batch_size <= limit && seq_len * batch_size * (1 + donors) > limit)
    refuse(
      ["eval", "batch_size"],
      `a batch of ${batch_size} blocks of ${seq_len} tokens is too large with as many donor blocks; allowed: up to ${limit} tokens per batch in all`,
    );
}

/** One spec of a target, as a config says it: which keys belong to which kind is checked when it is read. */
export interface TargetInput {
  /** Which site. */
  readonly kind: Intervention["kind"];
  /** From 0; not of a direction. */
  readonly layer?: number;
  /** Of kind head. */
  readonly heads?: readonly number[];
  /** Of kind kv_group. */
  readonly groups?: readonly number[];
  /** Of kind neuron. */
  readonly neurons?: readonly number[];
  /** zero, mean, …; of a list, one condition a mode. */
  readonly mode?: string | readonly string[];
  /** `not_first` leaves every block's first position alone. */
  readonly positions?: "all" | "not_first";
  /** Of a direction's `.safetensors` or `.pt` file. */
  readonly path?: string;
  /** Removes the direction, or adds it. */
  readonly op?: "project_out" | "add";
  /** Every tensor that is added to the residual stream, or the stream where it leaves a layer. */
  readonly at?: "writes" | "stream";
  /** In which a direction acts. */
  readonly layers?: "all" | readonly number[] | null;
  /** 1 removes all of it, or adds it once. */
  readonly coefficient?: number;
}

/** Which conditions, as a config says it. */
export interface AblationInput extends Omit<z.input<ReturnType<typeof ablation>>, "targets" | "given"> {
  /** Edits that everything is measured on top of, the baseline too: specs, or ids like `L3.head[2].zero`. */
  readonly given?: readonly (TargetInput | string | readonly TargetInput[])[] | null | undefined;
  /** One condition an entry: a spec, an id like `L3.head[2].zero`, or a list of specs that are applied jointly. */
  readonly targets?: readonly (TargetInput | string | readonly TargetInput[])[] | null | undefined;
}

/** A config as it is written: what may be left out is left out, and paths are relative to where the user stands. */
export interface ConfigInput {
  /** What is loaded, and how it computes. */
  readonly model: z.input<ReturnType<typeof model>>;
  /** On which text, and how much of it. */
  readonly eval?: z.input<ReturnType<typeof evaluation>> | undefined;
  /** Which conditions. */
  readonly ablation?: AblationInput | undefined;
  /** Ends early when the top is settled; null: every condition sees every block. */
  readonly stop?: z.input<ReturnType<typeof runConfigSchema>>["stop"];
  /** Where the results go; default results/config. */
  readonly output?:
    | {
        /** Of the run directory. */
        readonly dir?: string | undefined;
      }
    | undefined;
}

/** A complete run: what `parseConfig` gives, plain data that survives JSON and YAML. */
export interface RunConfig extends z.output<ReturnType<typeof runConfigSchema>> {}
export type AblationConfig = RunConfig["ablation"];
export type TargetSpec = AblationConfig["targets"][number][number];
