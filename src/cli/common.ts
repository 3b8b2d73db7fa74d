/** Options and habits that every command shares. */
import { type Command, Option } from "commander";
import { Controller } from "../controller.ts";
import { SparkablateError } from "../errors.ts";
import { say } from "./terminal.ts";

export interface CommonFlags {
  readonly json?: true;
  readonly quiet?: true;
  readonly verbose?: true;
}

export interface WorkerFlags {
  readonly worker?: string;
  readonly wait?: true;
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
        "use a running worker: ipc://…, tcp://…, or docker for the one in the container; spawn: start one here (default: " +
          "yours, if 'sparkablate worker' runs one that is the same as one started here, else start one)",
      ),
    )
    .option("--wait", "wait for a worker that another command holds")
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
export const controllerFor = ({ worker, wait, keys, quiet }: WorkerFlags & CommonFlags): Controller =>
  new Controller({ worker: worker ?? null, wait, keys, ...(quiet !== true && { say }) });

/** Tokens a calibration block: long enough for a mean, short enough for a small text. */
const CALIBRATION_BLOCK = 256;
/** Where nothing is calibrated; any model has as many positions. */
const UNUSED_BLOCK = 16;

/** `eval` of a command that evaluates nothing. @param calibration the text to take means over. */
export const calibrationSection = (calibration: string | undefined) => ({
  // Of one text a batch is set aside for evaluation; the means are taken over the rest.
  ...(calibration !== undefined && { calibration, dataset: calibration }),
  seq_len: calibration === undefined ? UNUSED_BLOCK : CALIBRATION_BLOCK,
});

/** @throws SparkablateError usage: mode mean without --calibration. */
export function refuseMean(): never {
  throw new SparkablateError("usage", "mode mean needs a text for its means: name one with --calibration");
}

/** Collects a repeatable option. */
export const collect = (value: string, before: string[]): string[] => [...before, value];
