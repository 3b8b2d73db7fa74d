/** `run --dry-run`: what a run would measure and cost. */
import type { RunConfig } from "../config/load.ts";
import { counted } from "../report/numbers.ts";
import { type DryRun, dryRun } from "../run/dry-run.ts";
import type { CommonFlags } from "./common.ts";
import { duration } from "./progress.ts";
import { lines, print, printJson } from "./terminal.ts";

/** @param yaml the config that the options are; null: there is a file. */
export function showDryRun(config: RunConfig, yaml: string | null, { json }: CommonFlags): void {
  const found = dryRun(config);
  if (json) printJson({ ...found, dtype: config.model.dtype, config: yaml });
  else
    print(lines([...(yaml === null ? [] : [...yaml.trimEnd().split("\n"), ""]), ...describe(found, config)]));
}

function describe(found: DryRun, config: RunConfig): string[] {
  const { model_type, n_layers, conditions, blocks, forward_equivalents, seconds, rate, directory, begun } =
    found;
  const unit = config.eval.task === null ? "block" : "item";
  const size = config.eval.task === null ? ` of ${config.eval.seq_len} tokens` : "";
  const passes =
    forward_equivalents < 10
      ? forward_equivalents.toFixed(1)
      : Math.round(forward_equivalents).toLocaleString("en");
  return [
    `# ${config.model.name}: ${model_type}, ${n_layers} layers, ${weights(found, config.model.dtype)}`,
    `# ${conditions.toLocaleString("en")} conditions (the baseline included) × ${counted(blocks, unit)}${size} in ${found.batches} ${found.batches === 1 ? "batch" : "batches"}`,
    `# the work of ${passes} forward passes over a batch; time: ${seconds === null ? "rate unknown here (it is kept when the model is first loaded)" : `about ${duration(seconds)}, as measured on ${rate}`}`,
    ...found.notices.map((notice) => `# note: ${notice}`),
    `# ${directory}: ${begun ? "holds a run already, which the same command resumes; the figures are those of all of it" : "nothing is there yet"}`,
  ];
}

function weights({ parameters, bytes }: DryRun, dtype: string): string {
  if (parameters === null || bytes === null) return "parameters unknown without the weights";
  const sizes = Object.entries(bytes).map(([name, size]) => `${(size / 1e9).toPrecision(3)} GB in ${name}`);
  return `${(parameters / 1e6).toFixed(1)} M parameters: ${sizes.join(", ")}; asked for: ${dtype}`;
}
