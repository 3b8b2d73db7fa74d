/** Flags that name a model and what to edit in it, for commands that work without a config file. */
import { type Command, Option } from "commander";
import { parseConfig, type RunConfig } from "../config/load.ts";
import { asksFor } from "../config/modes.ts";
import type { FlagName } from "../config/problems.ts";
import { SparkablateError } from "../errors.ts";
import {
  MODE_NAMES,
  MODES,
  OPERATIONS,
  type PartField,
  POSITIONS,
  partsOf,
  SITE_KINDS,
  SITES,
} from "../protocol/catalog.ts";
import { collect } from "./common.ts";
import { type ConditionFlags, conditionTargets, givenOfRows, withConditions } from "./condition-flags.ts";

/** Sites that --kind names; a direction has flags of its own. */
const KINDS = SITE_KINDS.filter((kind) => SITES[kind].edit !== "direction");
const PARTED = SITE_KINDS.flatMap((kind) => {
  const parts = partsOf(kind);
  return parts === null ? [] : [{ kind, ...parts }];
});
/** Modes that need no other tokens than those that are measured or calibrated on. */
const EDIT_MODES = [...MODE_NAMES.filter((mode) => MODES[mode].needs !== "donor"), "skip"];

export interface ModelFlags {
  readonly model: string;
  readonly revision?: string;
  readonly dtype?: string;
  readonly device?: string;
  readonly threads?: string;
}

/** A flag for each key that lists a site's parts, e.g. --heads. */
type PartFlags = { readonly [F in PartField]?: string[] };

export interface EditFlags extends PartFlags, ConditionFlags {
  readonly kind?: string;
  readonly layer?: string;
  readonly mode?: string;
  readonly positions?: string;
  readonly op?: string;
  readonly at?: string;
  readonly layers?: string[];
  readonly coefficient?: string;
}

export const dtypeOption = (): Option =>
  new Option(
    "--dtype <dtype>",
    "default auto: float32 on a CPU with the memory for it, else the model's own",
  ).choices(["auto", "bfloat16", "float16", "float32"]);

export function withModel(command: Command): Command {
  return command
    .requiredOption("-m, --model <name>", "Hugging Face id, local directory, or builtin:smollm2-135m")
    .option("--revision <commit>", "commit, branch or tag of a Hugging Face model")
    .addOption(dtypeOption())
    .addOption(
      new Option("--device <device>", "where to compute")
        .choices(["auto", "cuda", "mps", "cpu"])
        .default("auto"),
    )
    .option("--threads <number>", "CPU threads");
}

export function withEdits(command: Command): Command {
  command
    .optionsGroup("What to edit:")
    .addOption(new Option("--kind <site>", "which site").choices(KINDS))
    .option("--layer <number>", "the layer, counted from 0");
  for (const { kind, field, words } of PARTED)
    command.option(`--${field} <numbers...>`, `which ${words}, for --kind ${kind}`);
  command
    .addOption(
      new Option("--mode <mode>", "zero (default) or mean; for a layer: skip (zero means the same)").choices(
        EDIT_MODES,
      ),
    )
    .addOption(new Option("--positions <positions>", "all (default), or not_first").choices(POSITIONS))
    .option(
      "--direction <file>",
      "a direction file, .safetensors or .pt; without --op, one that --condition may name (may be repeated)",
      collect,
      [],
    )
    .addOption(new Option("--op <op>", "what to do with the direction").choices(Object.keys(OPERATIONS)))
    .addOption(new Option("--at <place>", "where project_out acts").choices(OPERATIONS.project_out))
    .option("--layers <numbers...>", "layers in which the direction acts (default: all; for add, the file's)")
    .option("--coefficient <number>", "how much of the direction (default: 1)");
  return withConditions(
    command,
    "another condition, like 'L14.head[3,7].zero + L26.layer.skip', or as in a config: '{kind: mlp, layer: 5}'; may be repeated",
  );
}

/** `model:` of a config. */
export function modelSection({
  model,
  revision,
  dtype,
  device,
  threads,
}: ModelFlags): Record<string, unknown> {
  return {
    name: model,
    ...(revision !== undefined && { revision }),
    dtype: dtype ?? "auto",
    ...(device !== undefined && { device }),
    ...(threads !== undefined && { threads: numeric(threads) }),
  };
}

/** Sections of a config, and the flags that their keys were written as. */
export interface Written {
  readonly ablation: Record<string, unknown>;
  readonly flags: ReadonlyMap<string, FlagName>;
}

/** `ablation:` of a config: the flags together are one condition, every --condition is another. */
export function editSection(flags: EditFlags): Written {
  const own = [...siteTarget(flags), ...directionTarget(flags)];
  const others = conditionTargets(flags, own.length > 0 ? 1 : 0);
  const targets = [...(own.length > 0 ? [own] : []), ...others.targets];
  if (targets.length === 0) {
    throw new SparkablateError("usage", "name something to edit with --kind, --direction or --condition");
  }
  const given = givenOfRows(flags);
  const { mode: written, positions } = flags;
  if (own.length === 0 && others.ids) refuseDefaults({ mode: written, positions });
  const mode = written === "skip" ? undefined : written;
  const names = new Map([
    ...others.flags,
    ...ownNames(own),
    ...plain(["ablation", "mode", "positions"]),
    ["ablation.given", { flag: "--from", below: null }] as const,
  ]);
  const ground = given.length > 0 && { given };
  return { ablation: { sweep: "custom", mode, positions, ...ground, targets }, flags: names };
}

/** An id says its mode and its positions itself. */
export function refuseDefaults(defaults: Readonly<Record<string, unknown>>): void {
  const given = Object.keys(defaults).find((name) => defaults[name] !== undefined);
  if (given === undefined) return;
  const example = given === "mode" ? "L5.mlp.mean" : "L5.mlp.zero@not_first";
  throw new SparkablateError(
    "usage",
    `--${given} does not apply to ids, which say theirs: write it there, like ${example}`,
  );
}

/** Keys of a section that are written as flags of the same name. */
export const plain = ([section, ...keys]: readonly string[]): [string, FlagName][] =>
  keys.map((key) => [`${section}.${key}`, { flag: `--${key}`, below: null }]);

/** Of the condition that --kind and --direction make: a config with one spec leaves out the second index. */
function ownNames(specs: readonly Record<string, unknown>[]): [string, FlagName][] {
  return specs.flatMap((spec, index) =>
    ["ablation.targets[0]", `ablation.targets[0][${index}]`].flatMap((path): [string, FlagName][] => [
      ...(index === 0 || path.endsWith(`][${index}]`)
        ? [
            [path, { flag: spec.kind === "direction" ? "--direction" : "--kind", below: null }] as [
              string,
              FlagName,
            ],
          ]
        : []),
      ...keysOf(spec).map((key): [string, FlagName] => [
        `${path}.${key}`,
        { flag: `--${key === "path" ? "direction" : key}`, below: `--${key}` },
      ]),
    ]),
  );
}

/** Of a spec's kind, whether or not they were written. */
function keysOf({ kind }: Record<string, unknown>): readonly string[] {
  if (kind === "direction") return ["path", "op", "at", "layers", "coefficient", "positions"];
  return ["kind", "layer", "mode", "positions", ...PARTED.map(({ field }) => field)];
}

/** `model:` as flags of the same names, but for the name. */
export const MODEL_NAMES: readonly [string, FlagName][] = [
  ["model.name", { flag: "--model", below: null }],
  ...plain(["model", "revision", "dtype", "device", "threads"]),
];

/** Flags → a complete config; complaints name the flags. */
export function configFromFlags(
  sections: Record<string, unknown>,
  flags: ReadonlyMap<string, FlagName> = new Map(),
): RunConfig {
  const names = new Map([...MODEL_NAMES, ...flags]);
  return withTexts((texts) => parseConfig(JSON.stringify(sections), "the options", { texts, flags: names }));
}

/** The config that `read` gives; the texts that it names have to be there only where a mean is taken over them. */
export function withTexts(read: (texts: boolean) => RunConfig): RunConfig {
  const config = read(false);
  return asksFor(config.ablation, "mean") ? read(true) : config;
}

function siteTarget({ kind, layer, mode, condition, ...flags }: EditFlags): Record<string, unknown>[] {
  const parts = PARTED.flatMap(({ field }) => (flags[field] ? [[field, flags[field]] as const] : []));
  if (kind === undefined) {
    // Of conditions alone it is their default.
    const default_ = condition.length > 0 ? undefined : mode;
    const orphan = Object.entries({ layer, ...Object.fromEntries(parts), mode: default_ }).find(
      ([, value]) => value !== undefined,
    );
    if (orphan !== undefined) throw new SparkablateError("usage", `--${orphan[0]} needs --kind`);
    return [];
  }
  const [stray] =
    parts.find(([field]) => !PARTED.some((one) => one.kind === kind && one.field === field)) ?? [];
  if (stray !== undefined) {
    const wanted = PARTED.find(({ field }) => field === stray)?.kind;
    throw new SparkablateError("usage", `--${stray} is for --kind ${wanted}, not for --kind ${kind}`);
  }
  return [
    {
      kind,
      // What does not fit the kind is said; beside conditions it is their default, which a layer has no use for.
      ...((mode === "skip" || (kind === "layer" && condition.length === 0)) &&
        mode !== undefined && { mode }),
      ...(layer !== undefined && { layer: numeric(layer) }),
      ...Object.fromEntries(parts.map(([field, list]) => [field, list.flatMap(numbers)])),
    },
  ];
}

function directionTarget({ direction, condition, ...flags }: EditFlags): Record<string, unknown>[] {
  const { op, at, layers, coefficient } = flags;
  const [path, ...others] = direction;
  // Without --op they are there for the ids to name.
  if (path === undefined || (op === undefined && condition.length > 0)) {
    const orphan = Object.entries({ op, at, layers, coefficient }).find(([, value]) => value !== undefined);
    if (orphan !== undefined)
      throw new SparkablateError(
        "usage",
        `--${orphan[0]} needs --direction${orphan[0] === "op" ? "" : " and --op"}`,
      );
    return [];
  }
  if (op === undefined) throw new SparkablateError("usage", "--direction needs --op project_out or --op add");
  if (others.length > 0)
    throw new SparkablateError(
      "usage",
      "--op says what to do with one direction: write the others as --condition 'dir[…].project_out'",
    );
  return [
    {
      kind: "direction",
      path,
      op,
      ...(at !== undefined && { at }),
      ...(layers && { layers: layers[0] === "all" ? "all" : layers.flatMap(numbers) }),
      ...(coefficient !== undefined && { coefficient: numeric(coefficient) }),
    },
  ];
}

/** "3,7" and "3 7" alike. What is no number stays text, so that the config says what is wrong with it. */
const numbers = (written: string): (number | string)[] => written.split(",").filter(Boolean).map(numeric);

const numeric = (written: string): number | string =>
  written.trim() !== "" && Number.isFinite(Number(written)) ? Number(written) : written;
