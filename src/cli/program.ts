/** The table of commands. */
import { Command } from "commander";
import { VERSION } from "../version.ts";
import { bakeCommand } from "./bake.ts";
import { compareCommand } from "./compare.ts";
import { completionCommand } from "./completion.ts";
import { directionCommand } from "./direction.ts";
import { dockerCommand } from "./docker.ts";
import { doctorCommand } from "./doctor.ts";
import { initCommand } from "./init.ts";
import { inspectCommand, inspectModel } from "./inspect.ts";
import { keysCommand } from "./keys.ts";
import { quickstartCommand } from "./quickstart.ts";
import { reportCommand } from "./report.ts";
import { runCommand } from "./run.ts";
import { setupCommand } from "./setup.ts";
import { lines, say } from "./terminal.ts";
import { workerCommand } from "./worker.ts";

const COMMANDS = [
  quickstartCommand,
  setupCommand,
  runCommand,
  reportCommand,
  compareCommand,
  directionCommand,
  bakeCommand,
  inspectCommand,
  () => initCommand(inspectModel),
  workerCommand,
  keysCommand,
  dockerCommand,
  doctorCommand,
  () => completionCommand(program),
];

export function program(): Command {
  const root = new Command("sparkablate")
    .description("What happens to this language model if I knock out this piece?")
    .version(VERSION)
    .showHelpAfterError("(--help explains the options)")
    // What was typed is text too; what commander suggests stands on a line of its own.
    .configureOutput({
      outputError: (text) => say(lines(text.trimEnd().split(/\n(?=\(Did you mean )/))),
    })
    .exitOverride();
  for (const make of COMMANDS) root.addCommand(make().copyInheritedSettings(root));
  return root;
}
