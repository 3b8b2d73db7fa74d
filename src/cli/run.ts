/** `sparkablate run`. */
import { Command } from "commander";
import { loadConfig } from "../config/load.ts";
import { requireConfigKept } from "../store/claim.ts";
import { collect, withOutput, withWorker } from "./common.ts";
import { sweepAndShow } from "./report.ts";
import type { ReportFlags } from "./report-flags.ts";
import type { SweepFlags } from "./sweep.ts";

interface RunFlags extends SweepFlags, ReportFlags {
  readonly config: string;
  readonly set: string[];
  readonly trustRemoteCode?: true;
}

export function runCommand(): Command {
  return withWorker(withOutput(new Command("run")))
    .description("run a sweep, or resume it if it was interrupted")
    .requiredOption("-c, --config <file>", "the sweep, in YAML")
    .option("--set <key=value>", "override a key of the config; may be repeated", collect, [])
    .option("--fresh", "move an existing output directory aside and start over")
    .option("--retry-failed", "measure failed conditions again")
    .option(
      "--verify",
      "before showing a finished run again, compare the model's files by content, not by time stamp",
    )
    .option("--no-plots", "do not make DIR/plots and DIR/report.html at the end")
    .option("--trust-remote-code", "run code from the model's repository (the config must ask for it too)")
    .addHelpText(
      "after",
      `
Shipped examples: configs/smoke_test.yaml, layer_sweep.yaml, head_sweep.yaml, custom_targets.yaml.
Ctrl-C once finishes the current condition and saves; twice stops at once. The same command continues.

Example:
  sparkablate run -c configs/smoke_test.yaml --set eval.max_batches=4 --set output.dir=results/try`,
    )
    .action(async (flags: RunFlags) => {
      const { config: file, set, trustRemoteCode = false } = flags;
      const config = loadConfig(file, { set, trustRemoteCode });
      requireConfigKept(file, config, flags.fresh === true);
      process.exitCode = await sweepAndShow(config, flags);
    });
}
