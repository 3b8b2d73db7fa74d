/** Options and habits that every command shares. */
import { styleText } from "node:util";
import { type Command, Option } from "commander";

export interface CommonFlags {
  readonly json?: true;
  readonly quiet?: true;
  readonly verbose?: true;
}

export interface WorkerFlags {
  readonly worker?: string;
}

export function withOutput(command: Command): Command {
  return command
    .option("--json", "machine output on stdout, words for people on stderr")
    .option("-q, --quiet", "say nothing that is not an error")
    .option("-v, --verbose", "say more: tracebacks, the worker's last lines");
}

export function withWorker(command: Command): Command {
  return command.addOption(
    new Option("--worker <address>", "use a running worker: ipc://… or tcp://… (default: start one here)"),
  );
}

/** Collects a repeatable option. */
export const collect = (value: string, before: string[]): string[] => [...before, value];

/** Words for people: stderr, so that stdout stays the result's. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** `styleText` for stderr: no colour into a pipe or under NO_COLOR. */
export const paint = (style: Parameters<typeof styleText>[0], text: string): string =>
  styleText(style, text, { stream: process.stderr });
