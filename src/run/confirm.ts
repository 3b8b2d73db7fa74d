/** Pure: the config that measures the largest effects of a run again, on blocks that the run did not use. */
import { BASELINE_ID } from "../conditions/ids.ts";
import type { RunConfig } from "../config/load.ts";
import { asWritten } from "../config/problems.ts";
import { SparkablateError } from "../errors.ts";
import { refusalOf } from "../protocol/features.ts";
import type { RunFacts } from "../results/facts.ts";
import { rankRows } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import type { ReportedRun } from "../store/run-directory.ts";

type Target = RunConfig["ablation"]["targets"][number];

/**
 * The largest of many effects are too large on the blocks that chose them (the winner's curse); unused blocks
 * have no such bias.
 * @param config the run's own, as read back from its directory.
 * @throws SparkablateError usage where nothing is measured, or a direction is among the top.
 */
export function confirmation(config: RunConfig, { rows, facts }: ReportedRun, top: number): RunConfig {
  const chosen = rankRows(rows)
    .filter(({ delta_nll, condition }) => delta_nll !== null && condition !== BASELINE_ID)
    .slice(0, top);
  if (chosen.length === 0) throw new SparkablateError("usage", "--confirm: nothing is measured yet");
  return {
    ...config,
    eval: unusedBlocks(config, facts),
    ablation: {
      ...config.ablation,
      sweep: "custom",
      layers: "all",
      from: null,
      top: null,
      targets: chosen.map(({ interventions, condition }) => together(interventions, condition)),
      directions: [],
    },
    stop: null,
    output: { dir: `${config.output.dir}-confirm-${top}` },
  };
}

/** The run's evaluation on the blocks behind those that it used. @param config the run's own. */
export function unusedBlocks(config: RunConfig, facts: RunFacts): RunConfig["eval"] {
  const { batch_size, skip_batches, calibration_batches } = config.eval;
  // Where calibration took its blocks from the same text, twice as many are left to it: some may have been skipped.
  const calibrated = facts.calibration === facts.text ? 2 * calibration_batches : 0;
  // So it is with the donor blocks of mode resample: one for each of evaluation.
  const batches = Math.ceil(facts.planned_blocks / batch_size);
  const drawn = facts.resample_source === facts.text ? batches : 0;
  return asWritten(config.eval, {
    ...config.eval,
    skip_batches: skip_batches + batches + Math.max(calibrated, drawn),
  });
}

/** A condition's edits as an entry of `targets`. */
export function together(interventions: Row["interventions"], condition: string): Target {
  return interventions.map((one) => {
    if (one.kind !== "direction") return one;
    throw new SparkablateError("usage", `${condition}: ${refusalOf("directions", "confirm")?.sentence}`, {
      help: "Run it again with eval.skip_batches set to the batches that the first run used.",
    });
  });
}
