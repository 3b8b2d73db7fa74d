/** `sparkablate completion`: a script for the shell, made from the commands as they are. */
import { basename } from "node:path";
import { Argument, Command } from "commander";
import { SparkablateError } from "../errors.ts";
import { bashCompletion } from "./completion/bash.ts";
import { fishCompletion } from "./completion/fish.ts";
import { type CommandWords, commandWords } from "./completion/words.ts";
import { zshCompletion } from "./completion/zsh.ts";
import { print, Words } from "./terminal.ts";

const SHELLS: Readonly<Record<string, (program: string, commands: readonly CommandWords[]) => string>> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

/** @param makeRoot the whole command line, this command included. */
export function completionCommand(makeRoot: () => Promise<Command>): Command {
  return new Command("completion")
    .addArgument(new Argument("[shell]", "default: the one in $SHELL").choices(Object.keys(SHELLS)))
    .addHelpText(
      "after",
      `
The script has this version's commands: source it whenever the shell starts, or print it again after an update.

Examples:
  eval "$(sparkablate completion bash)"      # in ~/.bashrc
  source <(sparkablate completion zsh)       # in ~/.zshrc, after compinit
  sparkablate completion fish > ~/.config/fish/completions/sparkablate.fish`,
    )
    .action(async (shell: string | undefined) => {
      const name = shell ?? basename(process.env.SHELL ?? "");
      const make = SHELLS[name];
      if (make === undefined) {
        const allowed = Object.keys(SHELLS).join(", ");
        throw new SparkablateError(
          "usage",
          `$SHELL is ${name || "not set"}: name a shell, as in 'sparkablate completion bash'; allowed: ${allowed}`,
        );
      }
      const root = await makeRoot();
      print(Words.made(make(root.name(), commandWords(root))));
    });
}
