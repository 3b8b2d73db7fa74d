/** The command line: one way to report an error, the only process.exit. */
import "./launcher.ts";
import { CommanderError } from "commander";
import { ERROR_KINDS, SparkablateError } from "../errors.ts";
import { machineError } from "../files.ts";
import { program } from "./program.ts";
import { lines, paint, quoted, say, words } from "./terminal.ts";

async function main(): Promise<number> {
  try {
    await program().parseAsync();
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return report(error);
  }
}

/** Says what went wrong and what to do; returns the exit code. */
function report(thrown: unknown): number {
  const error = thrown instanceof SparkablateError ? thrown : (machineError(thrown) ?? thrown);
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : ERROR_KINDS.usage.exit;
  if (error instanceof SparkablateError) {
    const { detail, exitCode, code, help } = error;
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
    say(help === ERROR_KINDS.usage.help ? usageHelp() : help);
    return exitCode;
  }
  say(quoted(error instanceof Error ? (error.stack ?? error.message) : String(error)));
  say(ERROR_KINDS.internal.help);
  return ERROR_KINDS.internal.exit;
}

/** Of the command that was typed. */
function usageHelp(): string {
  const command = program().commands.find((known) => known.name() === process.argv[2]);
  return command === undefined ? ERROR_KINDS.usage.help : `See 'sparkablate ${command.name()} --help'.`;
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
