/** What a config names that is read before any worker starts. */
import type { RunConfig } from "../config/load.ts";
import { type DirectionFiles, directionPaths, readDirectionFiles } from "../directions/file.ts";
import { measuredMetrics } from "../protocol/metrics.ts";
import { readEarlier } from "./earlier-run.ts";
import { readTexts, type TextInputs } from "./prepare.ts";
import { inputsOf } from "./recognise.ts";

/** The files that the config names, read before any Python starts. Datasets are loaded by the worker. */
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
    directions: readDirectionFiles(directionPaths(config)),
    earlier,
    digests: inputsOf(config, earlier),
  };
}
