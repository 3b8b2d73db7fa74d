/** What ends a command: how it is said, to people and to programs, and with which exit code. */
import { CommanderError } from "commander";
import { ERROR_KINDS, SparkablateError } from "../errors.ts";
import { machineError } from "../files.ts";
import { didYouMean } from "../suggest.ts";
import { COMMAND_NAMES, helpOf } from "./program.ts";
import { lines, paint, printJson, quoted, say, words } from "./terminal.ts";

/** The command of a line, as far as it is one. @param args without the program's own name. */
export function typedCommand(args: readonly string[]): string | undefined {
  const [first, second] = args;
  return first === "help" ? second : first;
}

/** Says what went wrong and what to do; returns the exit code. */
export function reportFailure(thrown: unknown, args: readonly string[]): number {
  const error = thrown instanceof SparkablateError ? thrown : (machineError(thrown) ?? thrown);
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    // commander answers it with the help alone.
    const [first, second] = args;
    if (first === "help" && second !== undefined && known(args) === undefined)
      return reportKnown(
        new SparkablateError("usage", `there is no command ${second}${didYouMean(second, COMMAND_NAMES)}`),
        args,
      );
    failJson(args, "usage", error.message.replace(/^error: /, ""), helpOf(known(args)));
    return ERROR_KINDS.usage.exit;
  }
  if (error instanceof SparkablateError) return reportKnown(error, args);
  const { help, exit } = ERROR_KINDS.internal;
  failJson(args, "internal", error instanceof Error ? error.message : String(error), help);
  say(quoted(error instanceof Error ? (error.stack ?? error.message) : String(error)));
  say(help);
  return exit;
}

function reportKnown(error: SparkablateError, args: readonly string[]): number {
  const { detail, exitCode, code } = error;
  const help = helpFor(error, args);
  failJson(args, code, error.message, help);
  if (code === "interrupted") {
    say(lines(error.lines));
    say(help);
    return exitCode;
  }
  const verbose = args.includes("-v") || args.includes("--verbose");
  if (detail !== undefined && (exitCode === 70 || exitCode === 3 || verbose)) say(quoted(detail, "  "));
  say(words`${paint("red", `error (${code}):`)} ${lines(error.lines)}`);
  say(help);
  return exitCode;
}

const known = (args: readonly string[]): string | undefined => {
  const typed = typedCommand(args);
  return typed !== undefined && COMMAND_NAMES.includes(typed) ? typed : undefined;
};

/** Of a line that was typed, how lines are typed; of a file, how it is written. */
function helpFor({ help }: SparkablateError, args: readonly string[]): string {
  const command = known(args);
  if (help === ERROR_KINDS.usage.help) return helpOf(command);
  const isTyped =
    command !== undefined && TYPED.includes(command) && !args.some((one) => /^(-c|--config)/.test(one));
  if (!isTyped) return help;
  if (help !== ERROR_KINDS.config_invalid.help)
    return command === "run"
      ? help.replaceAll("another output.dir", "another directory with --output")
      : help;
  return command === "run" ? `${helpOf(command)} ${OTHER_KEYS}` : helpOf(command);
}

/** Commands that are a config in flags, unless a file is given. */
const TYPED = ["run", "compare", "bake", "direction", "inspect"];
const OTHER_KEYS = "Keys that have no option of their own are set with --set, like --set eval.seq_len=256.";

/** The last object on stdout, for whoever asked for machine-readable output. */
function failJson(args: readonly string[], code: string, message: string, help: string): void {
  if (asksForJson(args)) printJson({ error: { code, message, help } });
}

function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  const options = end < 0 ? args : args.slice(0, end);
  return options.some(
    (one, index) =>
      one === "--json" || one === "--format=json" || (one === "--format" && options[index + 1] === "json"),
  );
}
