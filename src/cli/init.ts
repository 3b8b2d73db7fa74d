/** `sparkablate init`. */
import { existsSync, writeFileSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { Command, Option } from "commander";
import { stringify } from "yaml";
import { BASELINE_ID, interventionId } from "../conditions/ids.ts";
import { modelName } from "../config/paths.ts";
import { SparkablateError } from "../errors.ts";
import { headShare, sweepCost } from "../plan/cost.ts";
import { sweepEdits } from "../plan/sweeps.ts";
import { SITE_SWEEPS } from "../protocol/catalog.ts";
import type { ModelMap } from "../protocol/messages.ts";
import { type CommonFlags, type WorkerFlags, withOutput, withWorker } from "./common.ts";
import { inspectModel } from "./inspect.ts";
import { printJson, say } from "./terminal.ts";

/** That the config evaluates. */
const BATCHES = 16;

type Sweep = (typeof SITE_SWEEPS)[number];

interface InitFlags extends CommonFlags, WorkerFlags {
  readonly model: string;
  readonly output: string;
  readonly sweep: Sweep;
  readonly force?: true;
}

export function initCommand(): Command {
  return withWorker(withOutput(new Command("init")))
    .requiredOption("-m, --model <model>", "Hugging Face id, local directory, or builtin:smollm2-135m")
    .option("-o, --output <file>", "where to write the config", "sparkablate.yaml")
    .addOption(new Option("--sweep <sweep>", "what to sweep").choices(SITE_SWEEPS).default("layers"))
    .option("--force", "overwrite the file if it exists")
    .addHelpText("after", "\nExample:\n  sparkablate init -m builtin:smollm2-135m -o smollm2.yaml")
    .action(async (_: unknown, command: Command) => {
      const { model, output, sweep, force, json, quiet, ...place } = command.optsWithGlobals<InitFlags>();
      const name = resolvedName(model);
      const file = resolve(output);
      if (force !== true && existsSync(file)) throw exists(file); // said before a model is loaded
      const map = await inspectModel(name, place);
      write(file, configFor({ model: name, map, sweep, run: basename(file, extname(file)) }), force === true);
      if (json) printJson({ file, model_map: map });
      if (!quiet)
        say(`${file} is written. Next: sparkablate run -c ${output} --dry-run, then without --dry-run`);
    });
}

/** @throws SparkablateError model_not_found, before any worker starts. */
function resolvedName(model: string): string {
  const parsed = modelName(process.cwd()).safeParse(model);
  if (parsed.success) return parsed.data;
  throw new SparkablateError("model_not_found", `--model: ${parsed.error.issues[0]?.message}`);
}

function write(file: string, text: string, force: boolean): void {
  try {
    writeFileSync(file, text, { flag: force ? "w" : "wx" });
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EEXIST") throw exists(file);
    throw new SparkablateError("usage", `${file} cannot be written (${code})`, { cause: error });
  }
}

const exists = (file: string): SparkablateError =>
  new SparkablateError("usage", `${file} exists; pass --force to overwrite it, or -o to write elsewhere`);

interface ConfigFor {
  readonly model: string;
  readonly map: ModelMap;
  readonly sweep: Sweep;
  /** The run's name: its directory under results/. */
  readonly run: string;
}

/** The text of a config that runs as it stands; what it leaves out is there as a comment. */
export function configFor({ model, map, sweep, run }: ConfigFor): string {
  const seqLen = Math.min(1024, map.max_positions ?? 1024);
  const counts = SITE_SWEEPS.map((name) => `${name} (${costOf(map, name)})`).join(" | ");
  const scalar = (value: string): string => stringify(value, { lineWidth: 0 }).trimEnd();
  return `# ${map.model_type}: ${map.n_layers} layers, d_model ${map.d_model}; 'sparkablate inspect' shows its map.
model:
  name: ${scalar(model)}
  revision: null                  # commit of a Hugging Face model; what was resolved is recorded
  dtype: auto                     # auto: float32 on a CPU with the memory for it, else the model's own;
                                  # or float32 (exact; below it, small effects drown in rounding) | bfloat16 | float16
  device: auto                    # auto | cuda | mps | cpu; auto: cuda > mps > cpu
  device_map: null                # auto: a model too large for the device; its other layers lie elsewhere
eval:
  # wikitext | a .txt path | {path or name, config, split, column}; "shipped:" is the package's own directory;
  # instead of dataset: 'task: FILE.jsonl', prompts with answers, of which the answer alone is measured
  dataset: shipped:corpora/northanger-abbey.txt
  calibration: shipped:corpora/sense-and-sensibility.txt  # read only where mode is mean
  seq_len: ${String(seqLen).padEnd(23)}# tokens a block; ${map.max_positions === null ? "the model has no limit" : `the model allows ${map.max_positions}`}
  batch_size: 4
  max_batches: ${BATCHES}                 # ${BATCHES} × 4 = 64 blocks; null: the whole text
  seed: 0                         # which blocks, in which order
  metrics: [nll]                  # nll always; also kl, top1, accuracy
ablation:
  # how many conditions each sweep has here; the work, in passes of the whole model over a batch, of the ${BATCHES} batches:
  # ${counts} | custom
  # 'sparkablate run -c FILE --dry-run' says the time, once the model was loaded here
  sweep: ${sweep}
  layers: all                     # or a list of numbers from 0 to ${map.n_layers - 1}
  mode: zero                      # zero (a layer is skipped) | mean, or [zero, mean]
  positions: all                  # all | not_first
${exampleTargets(map)}output:
  dir: ${scalar(`results/${run}`)}
`;
}

/** "270; 2,300 passes" */
function costOf(map: ModelMap, sweep: Sweep): string {
  const edit = { mode: "zero", positions: "all" } as const;
  const edits = map.layers.flatMap((_, layer) => sweepEdits(sweep, edit, map, layer));
  const conditions = [
    { id: BASELINE_ID, interventions: [] },
    ...edits.map((one) => ({ id: interventionId(one), interventions: [one] })),
  ];
  const share = headShare(map, map.parameters);
  const cost = { stack_seconds: 1 - share, head_seconds: share, peak_bytes: 0, walks: true };
  const numerics = { dtype: "float32" } as const;
  const missing = Array.from({ length: BATCHES }, () => ({ share: 1, conditions }));
  const { forward_equivalents } = sweepCost(missing, { cost, model_map: map, numerics }, []);
  return `${edits.length.toLocaleString("en")}; ${Math.round(forward_equivalents).toLocaleString("en")} passes`;
}

/** Comments that become valid targets when uncommented: the middle layer's sites. */
function exampleTargets(map: ModelMap): string {
  const layer = Math.floor(map.n_layers / 2);
  const offered = map.layers[layer]?.sites ?? [];
  const examples = [
    ...(offered.includes("head") ? [`{kind: head, layer: ${layer}, heads: [0]}`] : []),
    ...(offered.includes("mlp") ? [`{kind: mlp, layer: ${layer}, mode: mean}`] : []),
    ...(offered.includes("layer") ? [`{kind: layer, layer: ${layer}}`] : []),
  ];
  if (examples.length === 0) return "";
  const note =
    "  # conditions of your own instead, with sweep: custom; an id like L3.mlp.zero is one too:\n  # targets:\n";
  return note + examples.map((example) => `  #   - ${example}\n`).join("");
}
