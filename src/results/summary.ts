/** summary.json: what a run was and what came of it, in one small object. */

import { MAX_SKEWNESS } from "../statistics/effects.ts";
import type { RunRecord } from "./facts.ts";
import { SweepTotals } from "./ranking.ts";
import { FALSE_DISCOVERY_RATE, FEW_BLOCKS, FLOOR_MULTIPLE, type Row } from "./row.ts";

/** What a summary needs of the rows, gathered as they pass. */
export class Totals {
  #baseline: Row | undefined;
  #seconds = 0;
  /** Pairs of a condition and a block. */
  #measured = 0;
  readonly #sweep = new SweepTotals();

  /** The baseline first. */
  add(row: Row): void {
    this.#seconds += row.seconds;
    if (this.#baseline === undefined) {
      this.#baseline = row;
      return;
    }
    this.#measured += row.blocks;
    this.#sweep.add(row);
  }

  summarize(run: RunRecord): Record<string, unknown> {
    return summary(run, this.#baseline, this.#sweep, this.#measured, this.#seconds);
  }
}

function summary(
  run: RunRecord,
  baseline: Row | undefined,
  sweep: SweepTotals,
  measured: number,
  seconds: number,
): Record<string, unknown> {
  const { facts, model, identity, notices, run_id } = run;
  const planned = facts.planned_conditions * facts.planned_blocks;
  return {
    run_id,
    name: facts.name,
    model: facts.model,
    revision: facts.revision,
    text: facts.text,
    calibration: facts.calibration,
    fingerprints: identity,
    numerics: model.numerics,
    version: facts.version,
    self_test: model.self_test,
    notices,
    baseline: baseline && {
      nll: baseline.nll,
      perplexity: baseline.perplexity,
      blocks: baseline.blocks,
      tokens: baseline.tokens,
    },
    planned: { conditions: facts.planned_conditions, blocks: facts.planned_blocks },
    ...sweep.statistics(),
    // Pairs of a condition and a block: planned, measured, and the share that `stop:` saved.
    work: { planned, measured, saved: planned === 0 ? 0 : 1 - measured / planned },
    seconds,
    race: facts.statistics.race ?? null,
    numeric_floor: facts.statistics.floor,
    statistics: {
      correction: facts.statistics.correction,
      false_discovery_rate: FALSE_DISCOVERY_RATE,
      few_blocks: FEW_BLOCKS,
      max_skewness: MAX_SKEWNESS,
      floor_multiple: FLOOR_MULTIPLE,
      confidence: 0.95,
    },
    started: facts.started,
    finished: facts.finished,
  };
}
