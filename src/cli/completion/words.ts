/** What can be typed, read from commander's own tree: a new command or option needs no line here. */
import type { Argument, Command, Option } from "commander";

/** What may stand where a value is expected. */
export type Values = "files" | "directories" | "anything" | readonly string[];

export interface OptionWords {
  /** `-c` and `--config`, as far as there are both. */
  readonly names: readonly string[];
  readonly description: string;
  /** null: it takes no value. */
  readonly values: Values | null;
  /** More than one value may follow. */
  readonly isList: boolean;
}

export interface CommandWords {
  readonly name: string;
  readonly description: string;
  readonly options: readonly OptionWords[];
  /** Of its arguments; null: it has none. */
  readonly values: Values | null;
}

/** Names that options and arguments give to their values when these are paths. */
const PATHS: Readonly<Record<string, Values>> = {
  file: "files",
  text: "files",
  directory: "directories",
  name: "directories",
  directories: "directories",
};

export function commandWords(root: Command): CommandWords[] {
  const help = root.createHelp();
  return root.commands.map((command) => ({
    name: command.name(),
    description: command.description(),
    options: help.visibleOptions(command).map(optionWords),
    values: argumentValues(command.registeredArguments),
  }));
}

function optionWords(option: Option): OptionWords {
  const { short, long, description, required, optional, argChoices, variadic, flags } = option;
  const value = /[<[]([\w-]+)/.exec(flags)?.[1] ?? "";
  return {
    names: [short, long].filter((name) => name !== undefined && name !== null),
    description,
    values: required || optional ? (argChoices ?? PATHS[value] ?? "anything") : null,
    isList: variadic,
  };
}

function argumentValues([first]: readonly Argument[]): Values | null {
  if (first === undefined) return null;
  return first.argChoices ?? PATHS[first.name()] ?? "anything";
}

/** In single quotes, for any of the three shells. */
export const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;
