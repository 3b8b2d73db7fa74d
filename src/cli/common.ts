/** Options and habits that every command shares. */
import { type Command, Option } from "commander";
import { Controller } from "../controller.ts";
import { say } from "./terminal.ts";

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
    .option("--json", "machine-readable output on stdout, messages on stderr")
    .option("-q, --quiet", "print errors only")
    .option("-v, --verbose", "print more: tracebacks, the worker's last lines");
}

export function withWorker(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--worker <address>",
        "use a running worker: ipc://…, tcp://…, or docker for the one in the container (default: start one here)",
      ),
    )
    .addOption(keysOption());
}

export const keysOption = (): Option =>
  new Option(
    "--keys <directory>",
    "directory of keys for a tcp:// worker (default: $SPARKABLATE_KEYS, else sparkablate/keys in $XDG_CONFIG_HOME)",
  );

export const TEMPLATE_DATE =
  "the day that a chat template writes into the prompts, like 2026-11-29 (default: today)";

/** A controller of the worker that the flags name. */
export const controllerFor = ({ worker, keys, quiet }: WorkerFlags & CommonFlags): Controller =>
  new Controller({ worker: worker ?? null, keys, ...(quiet !== true && { say }) });

/** Collects a repeatable option. */
export const collect = (value: string, before: string[]): string[] => [...before, value];
