/** `sparkablate keys init`: what the two ends of a TCP link prove themselves with. */
import { Argument, Command } from "commander";
import { makeKeyPair } from "../link/channel.ts";
import { keysDirectory, writeKeys } from "../link/keys.ts";
import { type CommonFlags, keysOption, withOutput } from "./common.ts";
import { printJson, say } from "./terminal.ts";

interface KeysFlags extends CommonFlags {
  readonly keys?: string;
  readonly force?: true;
}

export function keysCommand(): Command {
  return withOutput(new Command("keys"))
    .addArgument(new Argument("<action>", "what to do").choices(["init"]))
    .addOption(keysOption())
    .option("--force", "replace existing keys; whoever has the old ones is no longer let in")
    .addHelpText(
      "after",
      `
Makes the directory private (mode 700), and writes controller.key, controller.pub, worker.key and worker.pub, which
only you can read. Copy worker.key and controller.pub to the machine of the worker, into a directory that --keys or
$SPARKABLATE_KEYS names there.

Example:
  sparkablate keys init
  sparkablate worker --bind tcp://0.0.0.0:5757`,
    )
    .action((_action: string, { keys, force, json, quiet }: KeysFlags) => {
      const directory = keysDirectory(keys);
      const { files, narrowed } = writeKeys(directory, makeKeyPair, force ?? false);
      if (narrowed !== null)
        say(`${directory}: its mode was ${narrowed.toString(8)} and is 700 now: nobody but you can use it`);
      if (json) printJson({ directory, files });
      else if (!quiet) {
        say(`${directory}: controller.key, controller.pub, worker.key, worker.pub`);
        say("Copy worker.key and controller.pub, and nothing else, to a worker on another machine.");
      }
    });
}
