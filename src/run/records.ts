/** A run, its blocks and its items, as they are stored before anything is measured. */
import { basename } from "node:path";
import { type RunConfig, resolvedYaml } from "../config/load.ts";
import { DONOR_MODES } from "../protocol/catalog.ts";
import type { Answer } from "../protocol/messages.ts";
import type { RunRecord } from "../results/facts.ts";
import type { ChosenBlocks } from "../samples/blocks.ts";
import type { ChosenItems } from "../samples/items.ts";
import type { Block, ItemBlock } from "../samples/sample.ts";
import { roundsFor } from "../statistics/racing.ts";
import type { Identity } from "../store/fingerprint.ts";
import type { BlockRecord, StoredItem } from "../store/sqlite.ts";
import { VERSION } from "../version.ts";
import type { Inputs } from "./inputs.ts";
import type { Prepared } from "./prepare.ts";
import { bosOf, evaluatedName, textName } from "./texts.ts";

/** What a run is, on a worker that is ready for it. */
export interface Described extends Prepared<ChosenBlocks | ChosenItems> {
  readonly identity: Identity;
  readonly notices: readonly string[];
}

export function runRecord(
  runId: string,
  config: RunConfig,
  { task, source }: Inputs,
  { loaded, plan, texts, shape, notices, identity }: Described,
): RunRecord {
  const { add_bos, seed, calibration } = config.eval;
  const { evaluation, donors } = texts;
  const text = evaluatedName(config.eval);
  const racers = plan.conditions.filter(({ interventions }) => interventions.length > 0).length;
  const { model_files: _files, ...model } = loaded;
  return {
    run_id: runId,
    identity,
    model,
    notices,
    facts: {
      name: basename(config.output.dir),
      model: config.model.name,
      revision: loaded.revision,
      weights_sha256: loaded.weights_sha256,
      ...(loaded.model_map.discovered !== null && { discovered: loaded.model_map.discovered }),
      numerics: loaded.numerics,
      text,
      task: task && { sha256: task.sha256, items: task.items.length, wrong: task.wrong },
      calibration:
        texts.calibration.length === 0 ? null : calibration === null ? text : textName(calibration),
      ...(donors.resample && {
        resample_source: calibration === null || task !== null ? text : textName(calibration),
      }),
      ...(donors.patch && { patch_source: source?.name ?? "" }),
      ...shape,
      bos: bosOf(add_bos, loaded) !== null,
      seed,
      planned_blocks: evaluation.length,
      planned_conditions: racers,
      sweep: config.ablation.sweep,
      ...(plan.given !== undefined && { given: plan.given }),
      statistics: {
        correction: "bh",
        floor: null,
        race: config.stop && {
          ...config.stop,
          conditions: racers,
          rounds: roundsFor(evaluation.length, shape.batch_size),
        },
      },
      config: resolvedYaml(config),
      version: VERSION,
      started: new Date().toISOString(),
      finished: null,
    },
  };
}

export function* blockRecords({ evaluation, calibration, donors }: ChosenBlocks): Generator<BlockRecord> {
  for (const [split, blocks] of [
    ["evaluation", evaluation],
    ["calibration", calibration],
    ...DONOR_MODES.map((mode) => [mode, donors[mode] ?? []] as const),
  ] as const) {
    for (const [ordinal, block] of blocks.entries()) {
      const { index, sha256 } = block;
      yield { split, ordinal, position: index, sha256, ...(isItem(block) && { item: storedItem(block) }) };
    }
  }
}

const isItem = (block: Block): block is ItemBlock => "answer" in block;

const storedItem = ({ item, answer }: ItemBlock): StoredItem => ({
  ...item,
  tokens: answer.end - answer.begin,
});

/** null where blocks of a text are evaluated. */
export function answersOf({ evaluation }: ChosenBlocks): Answer[] | null {
  const answers = evaluation.filter(isItem).map(({ answer }) => answer);
  return answers.length === 0 ? null : answers;
}
