/** `sparkablate quickstart`: set-up, smoke run, report. */
import { join } from "node:path";
import { Command } from "commander";
import { loadConfig } from "../config/load.ts";
import { packageRoot } from "../environment/environment.ts";
import { setUp } from "../environment/setup.ts";
import { withOutput } from "./common.ts";
import { leavable } from "./interrupt.ts";
import { sweepAndShow } from "./report.ts";
import type { SweepFlags } from "./sweep.ts";
import { say, words } from "./terminal.ts";

export function quickstartCommand(): Command {
  return withOutput(new Command("quickstart"))
    .addHelpText("after", "\nExample:\n  sparkablate quickstart")
    .action(async (flags: SweepFlags) => {
      await leavable(() =>
        setUp({}, (line) => {
          if (!flags.quiet) say(line);
        }),
      );
      const config = loadConfig(join(packageRoot(), "configs", "smoke_test.yaml"));
      process.exitCode = await sweepAndShow(config, flags);
      if (!flags.quiet) {
        say(words`\nNext: which attention heads of three layers matter? A few minutes on a laptop:`);
        say("  npx sparkablate run -c configs/head_sweep.yaml --set 'ablation.layers=[0,10,20]'");
      }
    });
}
