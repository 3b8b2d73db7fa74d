/** The table of commands. A command's file, and all that it needs, is loaded once the command is typed. */
import { Command } from "commander";
import { VERSION } from "../version.ts";
import { lines, say } from "./terminal.ts";

interface CommandRow {
  /** What it does. */
  readonly words: string;
  /** Its arguments, as the list of commands shows them. */
  readonly args?: string;
  /** It takes no options. */
  readonly plain?: true;
  readonly make: () => Promise<Command>;
}

const COMMANDS: Readonly<Record<string, CommandRow>> = {
  quickstart: {
    words: "set everything up, run the smoke sweep on the built-in model, and report it",
    make: async () => (await import("./quickstart.ts")).quickstartCommand(),
  },
  setup: {
    words: "prepare the Python side: environment, pinned packages, the built-in model",
    make: async () => (await import("./setup.ts")).setupCommand(),
  },
  run: {
    words: "run a sweep, or resume it if it was interrupted",
    make: async () => (await import("./run.ts")).runCommand(),
  },
  report: {
    words: "rank a run's conditions, draw the plots, write the HTML page; compare several runs",
    args: "<directories...>",
    make: async () => (await import("./report.ts")).reportCommand(),
  },
  compare: {
    words: "continue prompts greedily with and without an ablation, side by side",
    make: async () => (await import("./compare.ts")).compareCommand(),
  },
  direction: {
    words: "find a direction that tells two sets of prompts apart",
    make: async () => (await import("./direction.ts")).directionCommand(),
  },
  bake: {
    words: "write an ablation into the weights: a certified checkpoint that stock transformers loads",
    make: async () => (await import("./bake.ts")).bakeCommand(),
  },
  prune: {
    words: "search for what costs least, measure it on held-out blocks, and write the smaller checkpoint",
    make: async () => (await import("./prune.ts")).pruneCommand(),
  },
  inspect: {
    words: "show a model's layers, heads, sites and module paths, and test that edits hit them",
    make: async () => (await import("./inspect.ts")).inspectCommand(),
  },
  init: {
    words: "write a commented config that fits a model",
    make: async () => (await import("./init.ts")).initCommand(),
  },
  worker: {
    words: "run a worker in the foreground, from the environment that setup made",
    make: async () => (await import("./worker.ts")).workerCommand(),
  },
  keys: {
    words: "make key pairs for a worker that is reached over TCP, and for its controller",
    args: "<action>",
    make: async () => (await import("./keys.ts")).keysCommand(),
  },
  docker: {
    words: "start or stop the worker in a container",
    args: "<action>",
    make: async () => (await import("./docker.ts")).dockerCommand(),
  },
  doctor: {
    words: "check node, python, torch on the device, memory and worker, and say how to fix each",
    make: async () => (await import("./doctor.ts")).doctorCommand(),
  },
  completion: {
    words: "print the shell's completion script",
    args: "[shell]",
    plain: true,
    make: async () => (await import("./completion.ts")).completionCommand(() => program()),
  },
};

export const COMMAND_NAMES: readonly string[] = Object.keys(COMMANDS);

/**
 * The command line.
 * @param typed the one command that is needed whole; of the others the root's help shows as much as it does in any case.
 */
export async function program(typed?: string): Promise<Command> {
  const root = new Command("sparkablate")
    .description("What happens to this language model if I knock out this piece?")
    .version(VERSION)
    .showHelpAfterError(helpOf())
    // What was typed is text too; what commander suggests stands on a line of its own.
    .configureOutput({
      outputError: (text) => say(lines(text.trimEnd().split(/\n(?=\(Did you mean )/))),
    })
    .exitOverride();
  for (const [name, row] of Object.entries(COMMANDS)) {
    const whole = typed === undefined || typed === name;
    const command = (whole ? await row.make() : outline(name, row)).description(row.words);
    root.addCommand(command.copyInheritedSettings(root).showHelpAfterError(helpOf(name)));
  }
  return root;
}

/** As much of a command as the list of commands shows. */
function outline(name: string, { args, plain }: CommandRow): Command {
  const command = new Command(name);
  if (args !== undefined) command.argument(args);
  return plain ? command : command.option("--help");
}

/** Where a mistake in a command's line is put right. */
export const helpOf = (command?: string): string =>
  `See 'sparkablate ${command === undefined ? "" : `${command} `}--help'.`;
