/** What ends a command: how it is said, to people and to programs, and with which exit code. */
import { CommanderError } from "commander";
import { ERROR_KINDS, SparkablateError } from "../errors.ts";
import { machineError } from "../files.ts";
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
function helpFor({ code, help }: SparkablateError, args: readonly string[]): string {
  if (help === ERROR_KINDS.usage.help) return helpOf(known(args));
  const hasFile = args.some((one) => /^(-c|--config)/.test(one));
  if (code !== "config_invalid" || help !== ERROR_KINDS.config_invalid.help || hasFile) return help;
  const keys =
    known(args) === "run"
      ? " Keys that have no option of their own are set with --set, like --set eval.seq_len=256."
      : "";
  return `${helpOf(known(args))}${keys}`;
}

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
