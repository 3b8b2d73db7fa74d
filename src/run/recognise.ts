/** A finished run is recognised by its config, its texts and its model's files: nothing is loaded, no Python starts. */
import { readFileSync } from "node:fs";
import type { HubDataset } from "../config/datasets.ts";
import { identityConfig, type RunConfig } from "../config/load.ts";
import { sha256 } from "../digest.ts";
import { directionPaths } from "../directions/file.ts";
import type { RunRecord } from "../results/facts.ts";
import { configParts } from "../store/fingerprint.ts";
import { directoryNow, lookAtModel } from "../store/model-files.ts";
import type { Seen } from "../store/seen.ts";
import { VERSION } from "../version.ts";
import type { readEarlier } from "./earlier-run.ts";

/** How a finished run was recognised. */
export interface Recognised {
  /** False where the model's files are out of reach from here: the table is shown as it is stored. */
  readonly model_checked: boolean;
  /** What else was not looked at, in words. */
  readonly notices: readonly string[];
  /** To be stored: the files' stamps of now. */
  readonly seen: Seen;
}

type Earlier = ReturnType<typeof readEarlier>;

/**
 * Digests of all that the config names, but for the model; of a data set that the worker fetches, its name. They need
 * not be equal for two runs to be the same one: where they differ, the worker decides.
 */
export function inputsOf(config: RunConfig, earlier: Earlier): Record<string, string> {
  const { eval: evaluation, ablation, model } = config;
  const file = (path: string): string => sha256(readFileSync(path));
  const text = (source: string | HubDataset | null): string | null => {
    if (source === null) return null;
    return typeof source === "string" ? file(source) : JSON.stringify(source);
  };
  const found = {
    version: VERSION,
    // A local model is known by its files, wherever it lies.
    "model.name": model.name.startsWith("/") ? null : `${model.name} ${model.revision}`,
    "eval.dataset": text(evaluation.dataset),
    "eval.also": evaluation.also === undefined ? null : JSON.stringify(evaluation.also.map(text)),
    "eval.calibration": text(evaluation.calibration),
    "eval.task": text(evaluation.task),
    "ablation.source": text(ablation.source),
    "ablation.from": earlier && sha256(JSON.stringify(earlier)),
    directions: directionPaths(config).map(file).join(" "),
  };
  return Object.fromEntries(
    Object.entries(found).filter((entry): entry is [string, string] => entry[1] !== null),
  );
}

export interface RecogniseOptions {
  /** Looks at contents where stamps would do, and leaves to the worker what cannot be looked at from here. */
  readonly verify: boolean;
  /** The worker that was asked for is on another machine, as far as this one knows. */
  readonly remote: boolean;
  readonly signal?: AbortSignal | undefined;
}

/**
 * @param inputs what `inputsOf` gives now.
 * @returns null where only the worker can tell whether it is this run.
 * @throws SparkablateError other_run where a file of the model holds something else.
 */
export async function recognise(
  config: RunConfig,
  inputs: Readonly<Record<string, string>>,
  stored: RunRecord,
  seen: Seen | null,
  run: string,
  { verify, remote, signal }: RecogniseOptions,
): Promise<Recognised | null> {
  if (seen === null || !isSameConfig(config, stored)) return null;
  if (JSON.stringify(sorted(inputs)) !== JSON.stringify(sorted(seen.inputs))) return null;
  const fetched = [config.eval.dataset, ...(config.eval.also ?? []), config.eval.calibration].filter(
    (source): source is HubDataset => source !== null && typeof source !== "string",
  );
  // Of a directory nobody knows here what of it is read.
  if (fetched.some(({ path }) => path.startsWith("/"))) return null;
  if (verify && (remote || fetched.length > 0)) return null;
  const notices = fetched.length > 0 ? [`the data set ${fetched[0]?.path} was not looked at`] : [];
  const unseen = { model_checked: false, notices: ["the model was not looked at", ...notices], seen };
  if (remote) return unseen;
  const directory = directoryNow(config.model, seen.model);
  if (directory === null) return null;
  const look = await lookAtModel(seen.model, directory, verify, run, signal);
  if (look.found === "unsure" || (verify && look.found !== "same")) return null;
  if (look.found === "out of reach") return unseen;
  return { model_checked: true, notices, seen: { model: look.files, inputs } };
}

const sorted = (parts: Readonly<Record<string, string>>) => Object.entries(parts).sort();

function isSameConfig(config: RunConfig, { identity }: RunRecord): boolean {
  const now = configParts(identityConfig(config));
  const parts = Object.keys(identity).filter((part) => part.startsWith("config."));
  return parts.length === Object.keys(now).length && parts.every((part) => identity[part] === now[part]);
}
