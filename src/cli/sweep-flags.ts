/** `run -m MODEL …`: a sweep in flags. It is a config like any other, and is printed as one. */
import { basename } from "node:path";
import { type Command, Option } from "commander";
import { stringify } from "yaml";
import { identityConfig, parseConfig, type RunConfig } from "../config/load.ts";
import { localDirectory } from "../config/paths.ts";
import type { FlagName } from "../config/problems.ts";
import { sha256 } from "../digest.ts";
import { findModel, positionsIn, readConfiguration } from "../environment/model-config.ts";
import { SparkablateError } from "../errors.ts";
import { MODE_NAMES, POSITIONS, SITE_SWEEPS } from "../protocol/catalog.ts";
import { readEarlier } from "../run/earlier-run.ts";
import { inputsOf } from "../run/recognise.ts";
import { configParts } from "../store/fingerprint.ts";
import { collect } from "./common.ts";
import {
  type ConditionFlags,
  conditionTargets,
  eachOption,
  givenEntries,
  withConditions,
} from "./condition-flags.ts";
import { dtypeOption, MODEL_NAMES, type ModelFlags, modelSection, refuseDefaults } from "./model-flags.ts";

export interface SweepConfigFlags extends Omit<ModelFlags, "model">, ConditionFlags {
  readonly model?: string;
  readonly sweep?: string;
  readonly text?: string;
  readonly task?: string;
  readonly layers?: string;
  readonly mode?: string;
  readonly positions?: string;
  readonly given: string[];
  readonly output?: string;
  readonly set: string[];
  readonly trustRemoteCode?: true;
}

/** `eval.seq_len` where a config leaves it out. */
const BLOCK = 1024;
/** Hexadecimal digits of the digest in a directory's name. */
const DIGITS = 8;

const NAMES: ReadonlyMap<string, FlagName> = new Map([
  ...MODEL_NAMES,
  ...Object.entries({
    "eval.dataset": "--text",
    "eval.task": "--task",
    "ablation.sweep": "--sweep",
    "ablation.layers": "--layers",
    "ablation.mode": "--mode",
    "ablation.positions": "--positions",
    "ablation.given": "--given",
    "output.dir": "--output",
  }).map(([key, flag]): [string, FlagName] => [key, { flag, below: flag }]),
]);

export function withSweep(command: Command): Command {
  const swept = withConditions(
    command
      .optionsGroup("The sweep, without a config:")
      .option("-m, --model <name>", "Hugging Face id, local directory, or builtin:smollm2-135m")
      .addOption(new Option("--sweep <site>", "what to remove, one at a time").choices(SITE_SWEEPS)),
    "instead of --sweep, one condition, like 'L14.head[3,7].zero + L26.layer.skip'; may be repeated",
  );
  return swept
    .addOption(eachOption())
    .option("--direction <file>", "a direction file that --condition may name; may be repeated", collect, [])
    .option(
      "--given <id>",
      "edits that everything is measured on top of, the baseline too, like 'L3.head[2].zero'; may be repeated",
      collect,
      [],
    )
    .option("--text <file>", "the .txt file to measure on (default: wikitext)")
    .option("--task <file>", "instead of a text, a .jsonl file of prompts with answers")
    .option("--layers <list>", "layers to sweep, like 0..5,-1 (default: all)")
    .option("--mode <mode>", `${MODE_NAMES.join(", ")}, or several, like zero,mean (default: zero)`)
    .addOption(new Option("--positions <positions>", "all (default), or not_first").choices(POSITIONS))
    .option("--revision <commit>", "commit, branch or tag of a Hugging Face model")
    .addOption(dtypeOption())
    .addOption(
      new Option("--device <device>", "where to compute (default: auto)").choices([
        "auto",
        "cuda",
        "mps",
        "cpu",
      ]),
    )
    .option("--threads <number>", "CPU threads")
    .option(
      "-o, --output <directory>",
      "the run's directory (default: results/MODEL-SWEEP-DIGEST, the same for the same line)",
    );
}

/** What a config says already. */
const CONFIG_KEYS = [
  "model",
  "sweep",
  "condition",
  "each",
  "given",
  "direction",
  "from",
  "text",
  "task",
  "layers",
  "mode",
  "positions",
  "revision",
  "dtype",
  "device",
  "threads",
  "output",
] as const satisfies (keyof SweepConfigFlags)[];

/** @throws SparkablateError usage where the flags and a config both say what to run. */
export function refuseBesideConfig(flags: SweepConfigFlags): void {
  const twice = CONFIG_KEYS.find((key) => {
    const value = flags[key];
    return Array.isArray(value) ? value.length > 0 : value !== undefined;
  });
  if (twice === undefined) return;
  throw new SparkablateError(
    "usage",
    `--${twice} cannot be combined with --config, which says it already; --set changes a key of the config`,
  );
}

/** The config that the flags are, and the text of one that is the same run. */
export function configOfFlags(flags: SweepConfigFlags): { config: RunConfig; yaml: string } {
  const { sections, names } = sectionsOf(flags);
  const parse = (written: Record<string, unknown>): RunConfig =>
    parseConfig(JSON.stringify(written), "the options", {
      set: flags.set,
      trustRemoteCode: flags.trustRemoteCode ?? false,
      flags: names,
    });
  const named =
    flags.output ?? flags.set.findLast((one) => one.startsWith("output.dir="))?.slice("output.dir=".length);
  const dir = named ?? defaultDirectory(parse(sections), flags);
  const written = { ...sections, output: { dir } };
  const config = parse(written);
  const shown = flags.set.length === 0 ? written : config;
  return {
    config,
    yaml: stringify(shown, { lineWidth: 0, aliasDuplicateObjects: false, flowCollectionPadding: false }),
  };
}

function sectionsOf(flags: SweepConfigFlags): {
  sections: Record<string, unknown>;
  names: ReadonlyMap<string, FlagName>;
} {
  const { model, sweep, text, task, layers, mode, positions } = flags;
  if (model === undefined)
    throw new SparkablateError("usage", "a model is missing: give -m MODEL, or a config with -c FILE");
  const listed = conditionTargets(flags, 0);
  const given = givenEntries(flags.given, flags);
  if (sweep === undefined && listed.targets.length === 0)
    throw new SparkablateError(
      "usage",
      `say what to remove: give --sweep ${SITE_SWEEPS.join("|")}, or --condition ID`,
    );
  if (sweep !== undefined && listed.targets.length > 0)
    throw new SparkablateError("usage", "--condition cannot be combined with --sweep: give one of them");
  if (text !== undefined && task !== undefined)
    throw new SparkablateError("usage", "--text cannot be combined with --task: give one of them");
  if (sweep === undefined) {
    if (layers !== undefined)
      throw new SparkablateError(
        "usage",
        "--layers is for --sweep: a condition names its layers itself, like L0..5.mlp.zero",
      );
    if (listed.ids) refuseDefaults({ mode, positions });
  }
  const modes = mode?.split(",").map((one) => one.trim());
  const sections = {
    model: modelSection({ ...flags, model }),
    ...evaluation(flags, model),
    ablation: {
      sweep: sweep ?? "custom",
      ...(layers !== undefined && { layers }),
      ...(modes !== undefined && { mode: modes.length === 1 ? modes[0] : modes }),
      ...(positions !== undefined && { positions }),
      ...(given.targets.length > 0 && { given: given.targets }),
      ...(listed.targets.length > 0 && { targets: listed.targets }),
    },
  };
  return { sections, names: new Map([...NAMES, ...given.flags, ...listed.flags]) };
}

/** Where the model has room for fewer tokens than a block has by default, blocks of that size. */
function evaluation({ text, task }: SweepConfigFlags, model: string): { eval?: Record<string, unknown> } {
  const positions = task === undefined ? positionsOf(model) : null;
  const settings = {
    ...(text !== undefined && { dataset: text }),
    ...(task !== undefined && { task }),
    ...(positions !== null && positions < BLOCK && { seq_len: positions }),
  };
  return Object.keys(settings).length === 0 ? {} : { eval: settings };
}

function positionsOf(model: string): number | null {
  const name = localDirectory(model, process.cwd()) ?? model;
  const directory = findModel({ name, revision: null });
  return directory === null ? null : positionsIn(readConfiguration(directory).language);
}

/** The same for the same config of the same inputs: the same line resumes, another has a directory of its own. */
function defaultDirectory(config: RunConfig, { model = "" }: SweepConfigFlags): string {
  const { version: _version, ...inputs } = inputsOf(config, readEarlier(config));
  const parts = { ...configParts(identityConfig(config)), ...inputs, model: config.model.name };
  const digest = sha256(JSON.stringify(Object.entries(parts).sort())).slice(0, DIGITS);
  const name = basename(config.model.name.replace(/^builtin:/, "")) || basename(model);
  return `results/${name.replaceAll(/[^\w.-]+/g, "-")}-${config.ablation.sweep}-${digest}`;
}
