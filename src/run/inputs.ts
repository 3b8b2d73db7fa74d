/** What a config names that is read before any worker starts. Datasets are loaded by the worker. */
import type { RunConfig } from "../config/load.ts";
import { readBeginning } from "../config/text-file.ts";
import { type DirectionFiles, directionPaths, readDirectionFiles } from "../directions/file.ts";
import { MAX_PAYLOAD_BYTES } from "../protocol/messages.ts";
import { measuredMetrics } from "../protocol/metrics.ts";
import { type DonorFile, readDonors } from "../samples/donors.ts";
import { readTask, type Task } from "../samples/task-file.ts";
import { readEarlier } from "./earlier-run.ts";
import { inputsOf } from "./recognise.ts";

export type TextSource = NonNullable<RunConfig["eval"]["dataset"]>;

/** A `.txt` file's text, as much of it as one payload holds. */
export interface TextBytes {
  readonly bytes: Buffer;
  /** Whether the file goes on. */
  readonly more: boolean;
}

/** null for a dataset. Throws what `readBeginning` does. */
export const readText = (source: TextSource | null): TextBytes | null =>
  typeof source === "string" ? readBeginning(source, "the text", MAX_PAYLOAD_BYTES) : null;

/** What a config's texts hold: what `readText` gave of them, or its task. */
export interface TextInputs {
  readonly evaluation: TextBytes | null;
  /** Of `eval.also`, in order. */
  readonly also: readonly (TextBytes | null)[];
  readonly calibration: TextBytes | null;
  readonly task: Task | null;
  /** What `ablation.source` names. */
  readonly source: DonorFile | null;
}

/** Reads the texts that a config names. Throws what `readTask` and `readDonors` do. */
export function readTexts({
  eval: { dataset, also = [], calibration, task },
  ablation,
}: RunConfig): TextInputs {
  return {
    evaluation: readText(dataset),
    also: also.map(readText),
    calibration: readText(calibration),
    task: task === null ? null : readTask(task),
    source: ablation.source === null ? null : readDonors(ablation.source),
  };
}

/** The files of the directions that a config's conditions name. Throws what `readDirectionFiles` does. */
export const readDirections = (config: RunConfig): DirectionFiles =>
  readDirectionFiles(directionPaths(config));

/** All that a run reads. */
export interface Inputs extends TextInputs {
  readonly metrics: readonly string[];
  readonly directions: DirectionFiles;
  /** The run that a sweep of pairs starts from. */
  readonly earlier: ReturnType<typeof readEarlier>;
  /** What a later command recognises them by. */
  readonly digests: Readonly<Record<string, string>>;
}

export function readInputs(config: RunConfig): Inputs {
  const texts = readTexts(config);
  const earlier = readEarlier(config);
  return {
    ...texts,
    metrics: measuredMetrics(config.eval.metrics, texts.task),
    directions: readDirections(config),
    earlier,
    digests: inputsOf(config, earlier),
  };
}
