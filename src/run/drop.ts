/** Pure: the configs that drop the least harmful layers of a finished sweep together: one measures, one bakes. */
import { BASELINE_ID } from "../conditions/ids.ts";
import type { RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { rankRows } from "../results/ranking.ts";
import type { ReportedRun } from "../store/run-directory.ts";
import { together, unusedBlocks } from "./confirm.ts";

export interface Dropping {
  /** Measures them as one condition, on blocks that the run did not use. */
  readonly measured: RunConfig;
  /** Their ids, the least harmful one first. */
  readonly dropped: readonly string[];
}

/**
 * @param config the run's own, as read back from its directory.
 * @param count how many.
 * @throws SparkablateError usage for a sweep of what no stock checkpoint can lose, and for another number than it has;
 *   input_missing for a run that is not finished.
 */
export function dropping(config: RunConfig, { rows, facts }: ReportedRun, count: number): Dropping {
  const { dir } = config.output;
  if (facts.sweep !== "layers")
    throw new SparkablateError(
      "usage",
      `--from-run ${dir}: its sweep is ${facts.sweep}, and one by one a stock checkpoint can lose layers alone`,
      { help: "Name a run with ablation.sweep: layers." },
    );
  if (facts.finished === null)
    throw new SparkablateError("input_missing", `--from-run ${dir}: the run is not finished`, {
      help: "Finish it first, with the same 'sparkablate run' command; its ranking would still change.",
    });
  const ranked = rankRows(rows).filter(
    ({ delta_nll, condition }) => delta_nll !== null && condition !== BASELINE_ID,
  );
  if (!Number.isInteger(count) || count < 1 || count >= ranked.length)
    throw new SparkablateError(
      "usage",
      `--drop ${count}: the run has measured ${ranked.length} layers; allowed: whole numbers from 1 to ${ranked.length - 1}`,
    );
  const least = ranked.slice(-count).reverse();
  return {
    measured: {
      ...config,
      eval: unusedBlocks(config, facts),
      ablation: {
        ...config.ablation,
        ...{ sweep: "custom", layers: "all", from: null, top: null, directions: [] },
        targets: [least.flatMap(({ interventions, condition }) => together(interventions, condition))],
      },
      stop: null,
      output: { dir: `${dir}-drop-${count}` },
    },
    dropped: least.map(({ condition }) => condition),
  };
}
