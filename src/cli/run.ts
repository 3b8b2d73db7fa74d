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
    .description("run a sweep; resumes it if it was interrupted")
    .requiredOption("-c, --config <file>", "the sweep, in YAML")
    .option("--set <key=value>", "override a key of the config; may be repeated", collect, [])
    .option("--fresh", "move an existing output directory aside and start anew")
    .option("--retry-failed", "measure conditions again that failed before")
    .option(
      "--verify",
      "read the model's files even where their time stamps say that a finished run is the same",
    )
    .option("--no-plots", "do not draw DIR/plots and DIR/report.html at the end")
    .option("--trust-remote-code", "let the model's repository run its code (the config must ask for it too)")
    .addHelpText(
      "after",
      `
Shipped examples: configs/smoke_test.yaml, layer_sweep.yaml, head_sweep.yaml, custom_targets.yaml.
Ctrl-C once finishes the condition in hand and saves; twice stops at once. The same command goes on.

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
