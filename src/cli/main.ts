/** The command line: one way to report an error, the only process.exit. */
import "./launcher.ts";
import { CommanderError } from "commander";
import { ERROR_KINDS, SparkablateError } from "../errors.ts";
import { machineError } from "../files.ts";
import { COMMAND_NAMES, helpOf, program } from "./program.ts";
import { lines, paint, printJson, quoted, say, words } from "./terminal.ts";

const [, , first, second] = process.argv;
/** The command that was typed. */
const typed = first === "help" ? second : first;
const known = typed !== undefined && COMMAND_NAMES.includes(typed) ? typed : undefined;

async function main(): Promise<number> {
  try {
    const root = await program(typed ?? "");
    await root.parseAsync();
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return report(error);
  }
}

/** Says what went wrong and what to do; returns the exit code. */
function report(thrown: unknown): number {
  const error = thrown instanceof SparkablateError ? thrown : (machineError(thrown) ?? thrown);
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return 0;
    failJson("usage", error.message.replace(/^error: /, ""), helpOf(known));
    return ERROR_KINDS.usage.exit;
  }
  if (error instanceof SparkablateError) {
    const { detail, exitCode, code } = error;
    const help = helpFor(error);
    failJson(code, error.message, help);
    if (code === "interrupted") {
      say(lines(error.lines));
      say(help);
      return exitCode;
    }
    if (
      detail !== undefined &&
      (exitCode === 70 || exitCode === 3 || process.argv.includes("-v") || process.argv.includes("--verbose"))
    ) {
      say(quoted(detail, "  "));
    }
    say(words`${paint("red", `error (${code}):`)} ${lines(error.lines)}`);
    say(help);
    return exitCode;
  }
  failJson("internal", error instanceof Error ? error.message : String(error), ERROR_KINDS.internal.help);
  say(quoted(error instanceof Error ? (error.stack ?? error.message) : String(error)));
  say(ERROR_KINDS.internal.help);
  return ERROR_KINDS.internal.exit;
}

/** Of a line that was typed, how lines are typed; of a file, how it is written. */
function helpFor({ code, help }: SparkablateError): string {
  if (help === ERROR_KINDS.usage.help) return helpOf(known);
  const hasFile = process.argv.some((one) => /^(-c|--config)/.test(one));
  if (code !== "config_invalid" || help !== ERROR_KINDS.config_invalid.help || hasFile) return help;
  const keys =
    known === "run"
      ? " Keys that have no option of their own are set with --set, like --set eval.seq_len=256."
      : "";
  return `${helpOf(known)}${keys}`;
}

/** The last object on stdout, for whoever asked for machine-readable output. */
function failJson(code: string, message: string, help: string): void {
  if (asksForJson(process.argv.slice(2))) printJson({ error: { code, message, help } });
}

function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  const options = end < 0 ? args : args.slice(0, end);
  return options.some(
    (one, index) =>
      one === "--json" || one === "--format=json" || (one === "--format" && options[index + 1] === "json"),
  );
}

// A reader that has seen enough (`| head`), or a terminal that was closed, is no error, and no reason to leave work undone.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE" && error.code !== "EIO") throw error;
  });
}

process.on("uncaughtException", (error) => process.exit(report(error)));

const code = await main();
// A pipe takes 64 KiB at once; what waits behind it would be lost.
for (const stream of [process.stdout, process.stderr])
  await new Promise<void>((resolve) => void stream.write("", () => resolve()));
process.exit(code);
