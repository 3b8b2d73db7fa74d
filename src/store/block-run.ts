/** A run with its block sums: what a comparison of runs needs beside the rows. */

import type { LoadedModel } from "../protocol/messages.ts";
import { divisor } from "../results/facts.ts";
import type { Identity } from "./fingerprint.ts";
import { filePartsOf } from "./model-files.ts";
import { requireBegun, type StoredRun, tableOf } from "./run-directory.ts";
import { RunStore } from "./sqlite.ts";

export interface BlockSums {
  /** Ordinals of evaluation blocks, ascending. */
  readonly blocks: readonly number[];
  /** Negative log-likelihood over each block's predicted tokens, or of each item; nats. */
  readonly nll: Float64Array;
}

export interface BlockRun extends Pick<StoredRun, "facts" | "rows"> {
  readonly identity: Identity;
  /** Part of the identity for each file of the model; null for a run that has none stored. */
  readonly files: Readonly<Record<string, string>> | null;
  readonly model_map: LoadedModel["model_map"];
  /** sha256 of each evaluation block's token ids, by ordinal. */
  readonly evaluation: readonly string[];
  /** By condition, the baseline included; what is not measured is not there. */
  readonly sums: ReadonlyMap<string, BlockSums>;
  /** What a sum is divided by: predicted tokens a block, 1 for items. */
  readonly tokens: number;
}

/** Reads a run as one state, whatever is written meanwhile. Throws `input_missing` where there is none. */
export function readBlockRun(path: string): BlockRun {
  return RunStore.reading(path, (store) => {
    const { run, table } = tableOf(store, requireBegun(store, path));
    const sums = new Map<string, BlockSums>();
    const seen = store.seen();
    for (const { condition, blocks, sums: columns, error } of store.measurements("edits")) {
      if (columns.nll !== undefined && error === null) sums.set(condition.id, { blocks, nll: columns.nll });
    }
    return {
      facts: run.facts,
      rows: [...table.rows()],
      identity: run.identity,
      files: seen && filePartsOf(seen.model),
      model_map: run.model.model_map,
      evaluation: store.blocks("evaluation").map(({ sha256 }) => sha256),
      sums,
      tokens: divisor(run.facts),
    };
  });
}
