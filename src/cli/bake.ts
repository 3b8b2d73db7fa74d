/** `sparkablate bake`: a standalone checkpoint with the ablation in its weights. */
import { lstatSync } from "node:fs";
import { resolve } from "node:path";
import { Command, Option } from "commander";
import { loadConfig, type RunConfig } from "../config/load.ts";
import { asksFor } from "../config/modes.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import type { BakeDtype, Baked } from "../run/bake.ts";
import {
  type CommonFlags,
  calibrationSection,
  collect,
  controllerFor,
  refuseMean,
  type WorkerFlags,
  withOutput,
  withWorker,
} from "./common.ts";
import { watched } from "./interrupt.ts";
import {
  configFromFlags,
  type EditFlags,
  editSection,
  modelSection,
  withEdits,
  withTexts,
} from "./model-flags.ts";
import { lines, printFitted, printJson } from "./terminal.ts";

interface BakeFlags extends CommonFlags, WorkerFlags, EditFlags {
  readonly out: string;
  readonly config?: string;
  readonly fromRun?: string;
  readonly drop?: string;
  readonly set: string[];
  readonly trustRemoteCode?: true;
  readonly joint?: true;
  readonly model?: string;
  readonly revision?: string;
  readonly device?: string;
  readonly threads?: string;
  readonly calibration?: string;
  readonly dtype: BakeDtype;
  readonly pruneLayers?: true;
  readonly pruneKvGroups?: true;
  readonly pruneNeurons?: true;
  readonly force?: true;
}

export function bakeCommand(): Command {
  return withEdits(withWorker(withOutput(new Command("bake"))))
    .optionsGroup("Model:")
    .option("-m, --model <name>", "Hugging Face id, local directory, or builtin:smollm2-135m")
    .option("--revision <commit>", "commit, branch or tag of a Hugging Face model")
    .option(
      "-c, --config <file>",
      "take the model and the edits from a config; its entries are applied together",
    )
    .option("--from-run <directory>", "of a finished sweep of layers, its model and, with --drop, its edits")
    .option("--drop <number>", "delete so many of that sweep's layers, the least harmful ones")
    .option("--set <key=value>", "override a key of the config; may be repeated", collect, [])
    .option("--trust-remote-code", "run code from the model's repository (the config must ask for it too)")
    .addOption(new Option("--joint", "a config's entries are applied together anyway").hideHelp())
    .addOption(new Option("--device <device>", "where to compute").choices(["auto", "cuda", "mps", "cpu"]))
    .option("--threads <number>", "CPU threads")
    .option("--calibration <text>", "a .txt file over which --mode mean takes its means")
    .optionsGroup("Result:")
    .requiredOption("--out <directory>", "the directory to create; it appears complete or not at all")
    .addOption(
      new Option(
        "--dtype <dtype>",
        "dtype of the result; auto: the source's, but float32 where a direction or a mean is computed into the weights",
      )
        .choices(["auto", "float32", "source"])
        .default("auto"),
    )
    .option("--prune-layers", "delete skipped layers instead of making them the identity")
    .option(
      "--prune-kv-groups",
      "remove zeroed key/value groups with their query heads: as many in every layer, whichever they are",
    )
    .option("--prune-neurons", "remove zeroed neurons: as many in every layer, whichever they are")
    .option("--force", "replace a directory that an earlier bake made")
    .addHelpText(
      "after",
      `
A fresh process that knows only stock transformers compares the result with the live edit; if they differ,
nothing is written. docs/bake.md lists what can be baked in which architecture.

Examples:
  sparkablate bake -m builtin:smollm2-135m --kind head --layer 14 --heads 3 7 --out baked/no-3-7
  sparkablate bake -m builtin:smollm2-135m --kind layer --layer 26 --prune-layers --out baked/29-layers
  sparkablate bake -c sweep.yaml --set model.device=cpu --out baked/all-of-it
  sparkablate bake --from-run results/layers --drop 2 --out baked/28-layers`,
    )
    .action(bake);
}

async function bake(flags: BakeFlags): Promise<void> {
  const sweep = sweepOf(flags);
  const out = resolve(flags.out);
  // The worker checks it again; said here, it costs no model's loading.
  if (flags.force !== true && flags.worker === undefined && lstatSync(out, { throwIfNoEntry: false })) {
    throw new SparkablateError("usage", `${out} exists; pass --force to replace it, or choose another --out`);
  }
  if (sweep !== null) return await dropFromRun(sweep, out, flags);
  const config = flags.config === undefined ? configOf(flags) : configFile(flags.config, flags);
  const lacksText =
    flags.config === undefined && flags.calibration === undefined && asksFor(config.ablation, "mean");
  await using controller = controllerFor(flags);
  const stop = new AbortController();
  const options = {
    out,
    dtype: flags.dtype,
    prune_layers: flags.pruneLayers ?? false,
    prune_kv_groups: flags.pruneKvGroups ?? false,
    prune_neurons: flags.pruneNeurons ?? false,
    force: flags.force ?? false,
    signal: stop.signal,
  };
  const work = (on: OnEvent): Promise<Baked> =>
    controller.bake(config, {
      ...options,
      on,
      onCondition(id) {
        notify(on, [`condition: ${id}`]);
        // Asked for only now: what cannot bake needs no text.
        if (lacksText) refuseMean();
      },
    });
  const baked = await watched(controller, flags, work, stop);
  if (flags.json) printJson(baked);
  else printFitted(lines(describe(baked)));
}

/** null: no sweep is named. */
function sweepOf(flags: BakeFlags): { directory: string; drop: string } | null {
  const { fromRun, drop } = flags;
  if ((fromRun === undefined) !== (drop === undefined))
    throw new SparkablateError(
      "usage",
      fromRun === undefined ? "--drop needs --from-run" : "--from-run needs --drop",
    );
  if (fromRun === undefined || drop === undefined) return null;
  const lists = (["condition", "direction", "from", "set"] as const).find((name) => flags[name].length > 0);
  const twice = (["config", ...SAID_BY_CONFIG] as const).find((name) => flags[name] !== undefined) ?? lists;
  if (twice !== undefined)
    throw new SparkablateError(
      "usage",
      `--${twice} cannot be combined with --from-run: both say what to bake`,
    );
  return { directory: fromRun, drop };
}

async function dropFromRun(
  sweep: { directory: string; drop: string },
  out: string,
  flags: BakeFlags,
): Promise<void> {
  const { bakeFromRun } = await import("./bake-from-run.ts");
  await using controller = controllerFor(flags);
  const stop = new AbortController();
  const options = { out, dtype: flags.dtype, force: flags.force ?? false, signal: stop.signal };
  const work = (on: OnEvent) => bakeFromRun(controller, sweep, options, on);
  const dropped = await watched(controller, flags, work, stop);
  if (flags.json) printJson(dropped);
  else printFitted(lines(describe(dropped)));
}

function configOf(flags: BakeFlags): RunConfig {
  const { model, calibration } = flags;
  if (model === undefined)
    throw new SparkablateError("usage", "a model is missing: give -m MODEL or -c FILE");
  const orphan = flags.set.length > 0 ? "set" : flags.trustRemoteCode && "trust-remote-code";
  if (orphan) throw new SparkablateError("usage", `--${orphan} needs --config`);
  const { ablation, flags: names } = editSection(flags);
  return configFromFlags(
    {
      model: { ...modelSection({ ...flags, model, dtype: "auto" }) },
      ablation,
      eval: { ...calibrationSection(calibration), max_batches: 1 },
    },
    names,
  );
}

/** Flags that say what a config says already, and would be overruled silently. */
const SAID_BY_CONFIG = [
  "model",
  "revision",
  "device",
  "threads",
  "calibration",
  "kind",
  "layer",
  "heads",
  "groups",
  "mode",
  "positions",
  "op",
  "at",
  "layers",
  "coefficient",
] as const satisfies (keyof BakeFlags)[];

function configFile(file: string, flags: BakeFlags): RunConfig {
  const lists = (["condition", "direction", "from"] as const).find((name) => flags[name].length > 0);
  const twice = SAID_BY_CONFIG.find((name) => flags[name] !== undefined) ?? lists;
  if (twice !== undefined) {
    throw new SparkablateError("usage", `--${twice} cannot be combined with --config: both say what to bake`);
  }
  return withTexts((texts) =>
    loadConfig(file, { set: flags.set, trustRemoteCode: flags.trustRemoteCode ?? false, texts }),
  );
}

function describe({ directory, condition, files, bytes, certificate, notes, gguf_command }: Baked): string[] {
  const { edit, behaviour } = certificate;
  const floor =
    behaviour.floor === null ? "" : `, two equal live runs differ by ${scientific(behaviour.floor)}`;
  return [
    `${directory}: ${condition}, ${files} files, ${(bytes / 2 ** 20).toFixed(0)} MiB`,
    `certified with stock transformers: ${edit.edited} tensors edited, ${edit.equal} equal to the source's`,
    `  logits differ from the live ablation's by ${scientific(behaviour.logit_difference)} of the largest ` +
      `(tolerance ${scientific(behaviour.tolerance)}${floor})`,
    `  KL ${scientific(behaviour.kl)} nats, Δ NLL ${scientific(behaviour.delta_nll)} nats a token, ` +
      `${behaviour.positions} positions, ${behaviour.rerouted} with other experts`,
    ...notes.map((note) => `note: ${note}`),
    ...(gguf_command === null ? [] : ["GGUF:", `  ${gguf_command}`]),
  ];
}

const scientific = (value: number): string => (value === 0 ? "0" : value.toExponential(1));
