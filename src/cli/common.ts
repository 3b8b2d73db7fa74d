/** Options and habits that every command shares. */
import { stripVTControlCharacters, styleText } from "node:util";
import { type Command, Option } from "commander";
import wrapAnsi from "wrap-ansi";
import { Controller } from "../controller.ts";

export interface CommonFlags {
  readonly json?: true;
  readonly quiet?: true;
  readonly verbose?: true;
}

export interface WorkerFlags {
  readonly worker?: string;
  readonly keys?: string;
}

export function withOutput(command: Command): Command {
  return command
    .option("--json", "machine output on stdout, words for people on stderr")
    .option("-q, --quiet", "say nothing that is not an error")
    .option("-v, --verbose", "say more: tracebacks, the worker's last lines");
}

export function withWorker(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--worker <address>",
        "use a running worker: ipc://…, tcp://…, or docker for the compose one (default: start one here)",
      ),
    )
    .addOption(keysOption());
}

export const keysOption = (): Option =>
  new Option(
    "--keys <directory>",
    "keys for a tcp:// worker (default: $SPARKABLATE_KEYS, else sparkablate/keys in $XDG_CONFIG_HOME)",
  );

/** A controller of the worker that the flags name. */
export const controllerFor = ({ worker, keys, quiet }: WorkerFlags & CommonFlags): Controller =>
  new Controller({ worker: worker ?? null, keys, ...(quiet !== true && { say }) });

/** Collects a repeatable option. */
export const collect = (value: string, before: string[]): string[] => [...before, value];

/** Words for people: stderr, so that stdout stays the result's. */
export function say(text: string): void {
  process.stderr.write(`${fitted(text, process.stderr)}\n`);
}

/**
 * Text as a terminal shows it best: broken between words. A pipe gets whole lines, and an indented line (a command,
 * a traceback) stays as it is, to be copied.
 * @param hanging what stands before the lines that a broken one goes on in.
 */
export function fitted(text: string, { isTTY, columns }: NodeJS.WriteStream, hanging = ""): string {
  if (!isTTY) return text;
  const lines = text.split("\n").map((line) => {
    if (line.startsWith("  ") || stripVTControlCharacters(line).length <= columns) return line;
    const [first = "", ...rest] = wrapAnsi(line, columns - hanging.length).split("\n");
    return [first, ...rest.map((part) => `${hanging}${part}`)].join("\n");
  });
  return lines.join("\n");
}

/** `styleText` for stderr: no colour into a pipe or under NO_COLOR. */
export const paint = (style: Parameters<typeof styleText>[0], text: string): string =>
  styleText(style, text, { stream: process.stderr });
