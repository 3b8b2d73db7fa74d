/** `sparkablate run`. */
import { Command } from "commander";
import { loadConfig, type RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { requireConfigKept } from "../store/claim.ts";
import { collect, withOutput, withWorker } from "./common.ts";
import { showDryRun } from "./dry-run.ts";
import { sweepAndShow } from "./report.ts";
import type { ReportFlags } from "./report-flags.ts";
import type { SweepFlags } from "./sweep.ts";
import { configOfFlags, refuseBesideConfig, type SweepConfigFlags, withSweep } from "./sweep-flags.ts";
import { lines, say, words } from "./terminal.ts";

interface RunFlags extends SweepFlags, ReportFlags, SweepConfigFlags {
  readonly config?: string;
  readonly dryRun?: true;
}

export function runCommand(): Command {
  const command = withWorker(withOutput(new Command("run")))
    .option("-c, --config <file>", "the sweep, in YAML")
    .option("--set <key=value>", "override a key of the config; may be repeated", collect, [])
    .option("--dry-run", "say what it would measure and cost; load, start and write nothing")
    .option("--fresh", "move an existing output directory aside and start over")
    .option("--retry-failed", "measure failed conditions again")
    .option(
      "--verify",
      "before showing a finished run again, compare the model's files by content, not by time stamp",
    )
    .option("--no-plots", "do not make DIR/plots and DIR/report.html at the end")
    .option("--trust-remote-code", "run code from the model's repository (the config must ask for it too)");
  return withSweep(command)
    .addHelpText(
      "after",
      `
Give a config with -c, or the sweep itself with -m; the config that the options stand for is printed.
Shipped examples: configs/smoke_test.yaml, layer_sweep.yaml, head_sweep.yaml, custom_targets.yaml.
docs/condition-ids.md explains ids like L14.head[3,7].zero.
Ctrl-C once finishes the current condition and saves; twice stops at once. The same command continues.

Examples:
  sparkablate run -m builtin:smollm2-135m --sweep layers --text my.txt
  sparkablate run -m builtin:smollm2-135m --sweep heads --layers 0..2,-1 --text my.txt --dry-run
  sparkablate run -c configs/smoke_test.yaml --set eval.max_batches=4 --set output.dir=results/try`,
    )
    .action(async (flags: RunFlags) => {
      const { config, yaml } = configOf(flags);
      if (flags.dryRun) {
        showDryRun(config, yaml, flags);
        return;
      }
      if (flags.config !== undefined) requireConfigKept(flags.config, config, flags.fresh === true);
      if (yaml !== null && !flags.quiet) sayConfig(yaml);
      process.exitCode = await sweepAndShow(config, flags);
    });
}

function configOf(flags: RunFlags): { config: RunConfig; yaml: string | null } {
  const { config: file, model, set, trustRemoteCode = false } = flags;
  if (file === undefined && model === undefined)
    throw new SparkablateError(
      "usage",
      "there is nothing to run: give a config with -c FILE, or a model with -m MODEL and what to sweep",
    );
  if (file === undefined) return configOfFlags(flags);
  refuseBesideConfig(flags);
  return { config: loadConfig(file, { set, trustRemoteCode }), yaml: null };
}

/** As a file, comments included, so that it can be copied whole. */
export function sayConfig(yaml: string): void {
  say(lines(["# these options as a config, for -c FILE:", ...yaml.trimEnd().split("\n"), words``]));
}
