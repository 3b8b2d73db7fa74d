/** summary.json: what a run was and what came of it, in one small object. */
import { sweepStatistics } from "./ranking.ts";
import { FALSE_DISCOVERY_RATE, FEW_BLOCKS, FLOOR_MULTIPLE, MAX_SKEWNESS, type Row } from "./rows.ts";
import type { RunRecord } from "./store/sqlite.ts";

export function summarize(run: RunRecord, rows: readonly Row[]): Record<string, unknown> {
  const { facts, model, identity, notices, run_id } = run;
  const [baseline] = rows;
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
    ...sweepStatistics(rows),
    work: workOf(rows, facts.planned_conditions * facts.planned_blocks),
    seconds: rows.reduce((total, { seconds }) => total + seconds, 0),
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

/** Pairs of a condition and a block: planned, measured, and the share that `stop:` saved. */
function workOf([, ...rows]: readonly Row[], planned: number): Record<string, number> {
  const measured = rows.reduce((total, { blocks }) => total + blocks, 0);
  return { planned, measured, saved: planned === 0 ? 0 : 1 - measured / planned };
}
