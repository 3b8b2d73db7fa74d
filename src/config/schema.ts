/**
 * The config's keys, their types, limits and defaults: all of them live here. What comes out is
 * complete: every default filled in, every path absolute, every target a list of full specs.
 */
import { z } from "zod";
import { overlaps } from "../conditions/checks.ts";
import { MAX_PAYLOAD_BYTES, MODES } from "../protocol.ts";
import { dataset, TRAINING_WIKITEXT, usesWikitext } from "./datasets.ts";
import { choice, decimal, indices, kinds, leaf, optionalSection, section, whole } from "./leaves.ts";
import { existingFile, modelName, outputDirectory, resolved } from "./paths.ts";

interface SchemaOptions {
  /** Where the user stands. */
  readonly cwd: string;
  /** Whether --trust-remote-code was given. */
  readonly trustRemoteCode: boolean;
  /** output.dir where the file does not say. */
  readonly outputDir: string;
}

export const SWEEPS = ["layers", "heads", "kv_groups", "mlp", "attn", "custom"] as const;
const POSITIONS = ["all", "not_first"] as const;
const METRICS = ["nll", "kl", "top1"] as const;
const TARGET_KINDS = ["head", "kv_group", "attn", "mlp", "layer", "direction"] as const;
const BYTES_PER_TOKEN = 4;

const text = (allowed: string) => {
  const params = leaf(allowed);
  return z.string(params).min(1, params).max(4096, params);
};

function model({ cwd, trustRemoteCode }: SchemaOptions) {
  return section({
    name: modelName(cwd),
    revision: text("a commit, branch or tag in quotes, or null").nullable().default(null),
    dtype: choice(["bfloat16", "float16", "float32"]).default("bfloat16"),
    device: choice(["auto", "cuda", "mps", "cpu"]).default("auto"),
    attn_implementation: text("an attention implementation of transformers, like sdpa or eager, or null")
      .nullable()
      .default(null),
    threads: whole(1, 1024).nullable().default(null),
    trust_remote_code: z.boolean(leaf("true, false")).default(false),
  }).superRefine((value, context) => {
    if (!value.trust_remote_code) return;
    const refuse = (key: string, message: string) =>
      context.addIssue({ code: "custom", path: [key], message });
    if (!trustRemoteCode) {
      refuse(
        "trust_remote_code",
        "true runs code from the model's repository; allowed: only together with --trust-remote-code",
      );
    }
    if (!value.name.startsWith("/") && !/^[0-9a-f]{40}$/.test(value.revision ?? "")) {
      refuse("revision", "is not pinned; allowed: with trust_remote_code, a commit of 40 hexadecimal digits");
    }
  });
}

function evaluation({ cwd }: SchemaOptions) {
  const addBos = leaf("auto, true, false");
  return section({
    dataset: dataset(cwd).prefault("wikitext"),
    calibration: dataset(cwd).nullable().default(null),
    seq_len: whole(2, 1 << 20).default(1024),
    batch_size: whole(1, 4096).default(4),
    max_batches: whole(1, 1_000_000).nullable().default(16),
    /** Batches at the head of the seed's order that this run leaves to others (report --confirm). */
    skip_batches: whole(0, 1_000_000).default(0),
    calibration_batches: whole(1, 1_000_000).default(8),
    add_bos: z.union([z.literal("auto"), z.boolean()], addBos).default("auto"),
    seed: whole(0, Number.MAX_SAFE_INTEGER).default(0),
    metrics: z
      .array(choice(METRICS), leaf(`a list of ${METRICS.join(", ")}`))
      .transform((names) => METRICS.filter((name) => name === "nll" || names.includes(name)))
      .prefault([]),
  })
    .superRefine(({ seq_len, batch_size, calibration_batches }, context) => {
      const limit = MAX_PAYLOAD_BYTES / BYTES_PER_TOKEN;
      const refuse = (key: string, message: string) =>
        context.addIssue({ code: "custom", path: [key], message });
      if (seq_len * batch_size > limit) {
        refuse(
          "batch_size",
          `a batch of ${batch_size} blocks of ${seq_len} tokens is too large; allowed: ${limit} tokens a batch`,
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
      calibration: value.calibration ?? (usesWikitext(value.dataset) ? TRAINING_WIKITEXT : null),
    }));
}

const layerNumber = whole(0, 100_000);
const layerList = () => {
  const allowed = "all, or a list of different layer numbers, like [0, 4, 8]";
  return z.union([z.literal("all"), indices(allowed)], leaf(allowed));
};

function directionKeys(cwd: string) {
  const allowed = "a direction file: .safetensors or .pt";
  return {
    path: resolved(allowed, (written, complain) => {
      if (/\.(safetensors|pt)$/.test(written)) return existingFile(written, cwd, complain);
      complain("config_invalid", `"${written}" is not a direction file`);
      return undefined;
    }),
    op: choice(["project_out", "add"]),
    at: choice(["writes", "stream"]).optional(),
    /** null: project_out acts on all layers, add on the one in its file. */
    layers: layerList().nullable().default(null),
    coefficient: decimal(-1e6, 1e6).default(1),
    positions: choice(POSITIONS).optional(),
  };
}

interface DirectionSpec {
  op: "project_out" | "add";
  at?: "writes" | "stream" | undefined;
}

/** `add` exists at the stream only. */
function checkDirection({ op, at }: DirectionSpec, context: z.RefinementCtx): void {
  if (op !== "add" || at !== "writes") return;
  context.addIssue({ code: "custom", path: ["at"], message: "writes does not fit op: add; allowed: stream" });
}

function targetSpec(cwd: string) {
  const layer = layerNumber;
  const edit = {
    mode: choice(MODES).optional(),
    positions: choice(POSITIONS).optional(),
  };
  const list = (what: string) => indices(`a list of different ${what} numbers, like [3, 7]`);
  return z.discriminatedUnion(
    "kind",
    [
      section({ kind: z.literal("head"), layer, heads: list("head"), ...edit }),
      section({ kind: z.literal("kv_group"), layer, groups: list("group"), ...edit }),
      section({ kind: z.literal("attn"), layer, ...edit }),
      section({ kind: z.literal("mlp"), layer, ...edit }),
      section({ kind: z.literal("layer"), layer, mode: choice(["skip"]).default("skip") }),
      section({ kind: z.literal("direction"), ...directionKeys(cwd) }).superRefine(checkDirection),
    ],
    kinds(TARGET_KINDS),
  );
}

function ablation({ cwd }: SchemaOptions) {
  const entry = z.preprocess(
    (value) => (Array.isArray(value) ? value : [value]),
    z
      .array(targetSpec(cwd))
      .min(1, { error: "an empty list edits nothing; allowed: one spec, or a list of specs" })
      .max(4096),
  );
  return section({
    mode: choice(MODES).default("zero"),
    sweep: choice(SWEEPS).default("layers"),
    layers: layerList().default("all"),
    positions: choice(POSITIONS).default("all"),
    targets: z.array(entry, leaf("a list of targets")).nullable().default(null),
    directions: z
      .array(section(directionKeys(cwd)).superRefine(checkDirection), leaf("a list of directions"))
      .nullable()
      .default(null),
  })
    .superRefine(checkAblation)
    .transform(({ targets, directions, ...sweep }) => ({
      ...sweep,
      targets: (targets ?? []).map((specs) => specs.map((spec) => complete(spec, sweep))),
      directions: (directions ?? []).map((spec) => completeDirection(spec, sweep)),
    }))
    .superRefine(({ targets }, context) => {
      for (const [index, specs] of targets.entries()) {
        const sites = specs.filter((spec) => spec.kind !== "direction");
        for (const message of overlaps(sites, null)) {
          const params = { code: "conditions_overlap" };
          context.addIssue({ code: "custom", path: ["targets", index], message, params });
        }
      }
    });
}

interface WrittenAblation {
  mode: (typeof MODES)[number];
  sweep: (typeof SWEEPS)[number];
  layers: "all" | number[];
  positions: (typeof POSITIONS)[number];
  targets: unknown[] | null;
  directions: unknown[] | null;
}

function checkAblation(value: WrittenAblation, context: z.RefinementCtx): void {
  const refuse = (key: string, message: string) => context.addIssue({ code: "custom", path: [key], message });
  if (value.sweep === "custom") {
    if ((value.targets ?? []).length + (value.directions ?? []).length === 0) {
      refuse(
        "sweep",
        "custom has nothing to measure; allowed: with at least one entry in targets or directions",
      );
    }
    if (value.layers !== "all")
      refuse("layers", "has no effect with sweep: custom; allowed: layers in each target");
  }
  if (value.sweep !== "layers") return;
  // A skipped layer is neither zero nor mean, and is skipped at every position.
  if (value.mode === "mean")
    refuse("mode", "mean has no meaning for sweep: layers (a layer is skipped); allowed: zero");
  if (value.positions !== "all") refuse("positions", "a layer is skipped at every position; allowed: all");
}

type Defaults = Pick<WrittenAblation, "mode" | "positions">;
type WrittenTarget = z.output<ReturnType<typeof targetSpec>>;
type WrittenDirection = Omit<Extract<WrittenTarget, { kind: "direction" }>, "kind">;

function complete(spec: WrittenTarget, defaults: Defaults) {
  if (spec.kind === "layer") return spec;
  if (spec.kind === "direction") return { kind: spec.kind, ...completeDirection(spec, defaults) };
  return { ...spec, mode: spec.mode ?? defaults.mode, positions: spec.positions ?? defaults.positions };
}

function completeDirection(spec: WrittenDirection, defaults: Defaults) {
  const { path, op, at, layers, coefficient, positions } = spec;
  return {
    path,
    op,
    at: at ?? (op === "add" ? ("stream" as const) : ("writes" as const)),
    layers: layers ?? (op === "add" ? null : ("all" as const)),
    coefficient,
    positions: positions ?? defaults.positions,
  };
}

/** `confidence` of 1 would need infinite intervals, of a half or less promises nothing. */
const confidence = decimal(0.5, 0.9999);

export function runConfigSchema(options: SchemaOptions) {
  return section({
    model: model(options),
    eval: optionalSection(evaluation(options)),
    ablation: optionalSection(ablation(options)),
    stop: section({
      top: whole(1, 100_000),
      confidence: confidence.default(0.95),
      tolerance: decimal(0, 1000).default(0.002),
    })
      .nullable()
      .default(null),
    output: optionalSection(section({ dir: outputDirectory(options.cwd).prefault(options.outputDir) })),
  });
}

/** A complete run: what `parseConfig` gives, plain data that survives JSON and YAML. */
export type RunConfig = z.output<ReturnType<typeof runConfigSchema>>;
export type AblationConfig = RunConfig["ablation"];
export type TargetSpec = AblationConfig["targets"][number][number];
