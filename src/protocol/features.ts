/**
 * Which features meet: what can be asked for, and which two refuse each other. Pure data.
 *
 * `config/features.ts` finds what a config asks for and refuses before anything is loaded; the worker refuses what only
 * it knows (its engine, the checkpoint, a condition's edits) in the sentences of `catalog.json`; docs/features.md is made
 * from it; `test/e2e/features.test.ts` asks for every two.
 */
import type { ErrorCode } from "../errors.ts";

/** Of what a feature is a choice. */
export type Part =
  | "sample"
  | "metric"
  | "mode"
  | "positions"
  | "sweep"
  | "given"
  | "stop"
  | "command"
  | "machine";

/** Parts of which one feature is chosen at a time. */
const ONE_AT_A_TIME: readonly Part[] = ["sample", "sweep", "command"];

export interface FeatureRow {
  readonly part: Part;
  /** How it is asked for, in Markdown. */
  readonly asked: string;
  /** Of a command: of which parts it takes something. It comes instead of, or after, a run, which takes all. */
  readonly takes?: readonly Part[];
}

const MEASURED: readonly Part[] = [
  "sample",
  "metric",
  "mode",
  "positions",
  "sweep",
  "given",
  "stop",
  "machine",
];
const EDITED: readonly Part[] = ["mode", "positions", "sweep", "given", "machine"];

export const FEATURES = {
  text: { part: "sample", asked: "`eval.dataset`" },
  task: { part: "sample", asked: "`eval.task`" },
  agreement: { part: "metric", asked: "`eval.metrics: [kl, top1]`" },
  logit_diff: { part: "metric", asked: "`eval.metrics: [logit_diff]`" },
  mean: { part: "mode", asked: "`mode: mean`" },
  resample: { part: "mode", asked: "`mode: resample`" },
  patch: { part: "mode", asked: "`mode: patch`" },
  several_modes: { part: "mode", asked: "`mode: [zero, mean, …]`" },
  not_first: { part: "positions", asked: "`positions: not_first`" },
  sites: { part: "sweep", asked: "`sweep: heads`, `kv_groups`, `attn`, `mlp`" },
  layers: { part: "sweep", asked: "`sweep: layers`" },
  pairs: { part: "sweep", asked: "`sweep: pairs`, with the modes and positions of the run that it names" },
  targets: { part: "sweep", asked: "`sweep: custom` with `targets`" },
  directions: { part: "sweep", asked: "`sweep: custom` with a direction" },
  given: { part: "given", asked: "`ablation.given`" },
  stop: { part: "stop", asked: "`stop`" },
  confirm: { part: "command", asked: "`report --confirm`", takes: MEASURED },
  tokens: { part: "command", asked: "`report --tokens`", takes: MEASURED },
  compare: { part: "command", asked: "`compare`", takes: EDITED },
  bake: { part: "command", asked: "`bake`", takes: EDITED },
  find: { part: "command", asked: "`direction find`", takes: ["machine"] },
  ray: { part: "machine", asked: "`worker --engine ray`" },
  device_map: { part: "machine", asked: "`model.device_map: auto`" },
  quantised: { part: "machine", asked: "a checkpoint with quantised weights" },
} as const satisfies Record<string, FeatureRow>;

export type Feature = keyof typeof FEATURES;
export const FEATURE_NAMES = Object.keys(FEATURES) as Feature[];

export interface Refusal {
  /** What is in the way, and what else is asked for. */
  readonly features: readonly [Feature, Feature];
  readonly code: ErrorCode;
  readonly sentence: string;
}

const NEEDS_ALL = "where every condition is needed on every block; allowed: null";
const ONE_CONDITION = "makes many conditions, and a bake has one";
const NO_TOKENS =
  "takes activations from other tokens at the same positions, and a text that is yet to be written has none; allowed: zero, mean";
const SKIPPED =
  "has no meaning for sweep: layers (a layer is skipped, or replaced by its mean); allowed: zero, mean";
const OTHERS =
  "its values come from other tokens, and weights hold none; measure it with 'sparkablate run' instead";

const rows: readonly (readonly [Feature, Feature, ErrorCode, string])[] = [
  ["logit_diff", "text", "config_invalid", "logit_diff compares an answer with a wrong one: set eval.task"],
  [
    "patch",
    "text",
    "config_invalid",
    "patch pairs the donor's lines with the items of a task: set eval.task",
  ],
  ["resample", "layers", "config_invalid", `resample ${SKIPPED}`],
  ["patch", "layers", "config_invalid", `patch ${SKIPPED}`],
  ["not_first", "layers", "config_invalid", "a layer is skipped at every position; allowed: all"],
  ["stop", "pairs", "config_invalid", `cannot be combined with sweep: pairs, ${NEEDS_ALL}`],
  ["stop", "several_modes", "config_invalid", `cannot be combined with several modes, ${NEEDS_ALL}`],
  [
    "directions",
    "confirm",
    "usage",
    "--confirm measures on other blocks, and a run does not keep the file of a direction",
  ],
  ["resample", "compare", "config_invalid", `mode resample ${NO_TOKENS}`],
  ["patch", "compare", "config_invalid", `mode patch ${NO_TOKENS}`],
  ["pairs", "compare", "config_invalid", "pairs are measured, not compared; allowed: all other sweeps"],
  [
    "given",
    "compare",
    "config_invalid",
    "compare continues the unedited model's texts beside a condition's: leave out given, and name its edits in the conditions",
  ],
  ["sites", "bake", "config_invalid", `a sweep ${ONE_CONDITION}; allowed: custom`],
  ["layers", "bake", "config_invalid", `a sweep ${ONE_CONDITION}; allowed: custom`],
  ["pairs", "bake", "config_invalid", `a sweep ${ONE_CONDITION}; allowed: custom`],
  ["several_modes", "bake", "config_invalid", `a list of modes ${ONE_CONDITION}: name one mode`],
  ["resample", "bake", "bake_refused", OTHERS],
  ["patch", "bake", "bake_refused", OTHERS],
  [
    "not_first",
    "bake",
    "bake_refused",
    "weights cannot know a token's position; measure it with 'sparkablate run' instead",
  ],
  ["ray", "bake", "usage", "the Ray engine cannot bake: use a worker with --engine local"],
  [
    "quantised",
    "bake",
    "bake_refused",
    "the source is quantised: bake from the unquantised checkpoint and quantise the result",
  ],
];
export const REFUSALS: readonly Refusal[] = rows.map(([first, second, code, sentence]) => ({
  features: [first, second],
  code,
  sentence,
}));

/** Why these two cannot be asked for together; null: they can. The order does not matter. */
export const refusalOf = (one: Feature, other: Feature): Refusal | null =>
  REFUSALS.find(({ features }) => features.includes(one) && features.includes(other)) ?? null;

/** What becomes of two features. "apart": nobody can ask for both, since one is chosen instead of the other. */
export function meeting(one: Feature, other: Feature): "works" | "refused" | "apart" {
  if (refusalOf(one, other) !== null) return "refused";
  const { part, takes }: FeatureRow = FEATURES[one];
  const { part: otherPart, takes: otherTakes }: FeatureRow = FEATURES[other];
  const alternatives = part === otherPart && ONE_AT_A_TIME.includes(part);
  const passedOver = takes?.includes(otherPart) === false || otherTakes?.includes(part) === false;
  return alternatives || passedOver ? "apart" : "works";
}
