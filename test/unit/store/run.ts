/** A run's parts, for tests of the store. */

import type { Condition } from "../../../src/protocol/messages.ts";
import type { RunFacts, RunRecord } from "../../../src/results/facts.ts";
import type { Measured } from "../../../src/results/measurements.ts";
import type { RunStore, StoredItem } from "../../../src/store/sqlite.ts";

const SHA = "0".repeat(64);
const NUMERICS = {
  dtype: "float32",
  device: "cpu",
  device_name: "x86_64",
  cpu_capability: "AVX2",
  attn_implementation: "sdpa",
  threads: 1,
  tf32: false,
  deterministic: true,
  full_logits: false,
  versions: {},
};

export const TOKENS = 31;

export function conditionsOf(count: number): Condition[] {
  return Array.from({ length: count }, (_, ordinal) =>
    ordinal === 0
      ? { id: "baseline", interventions: [] }
      : {
          id: `L${ordinal}.layer.skip`,
          interventions: [{ kind: "layer", layer: ordinal, mode: "skip" }],
        },
  );
}

/**
 * @param items of a task; without them blocks of a text.
 * @param config as it is written down.
 */
export function begin(
  store: RunStore,
  conditions: readonly Condition[],
  blocks: number,
  items: readonly StoredItem[] = [],
  config = "sweep: layers\n",
): void {
  const facts: RunFacts = {
    name: "a run",
    model: "tiny",
    revision: null,
    weights_sha256: SHA,
    numerics: NUMERICS,
    text: "text.txt",
    ...(items.length > 0 && { task: { sha256: SHA, items: items.length, wrong: true } }),
    calibration: null,
    seq_len: TOKENS + 1,
    batch_size: blocks,
    bos: false,
    seed: 0,
    planned_blocks: blocks,
    planned_conditions: conditions.length - 1,
    sweep: "layers",
    statistics: { correction: "bh", floor: null },
    config,
    version: "0.1.0",
    started: "2026-11-24T00:00:00.000Z",
    finished: null,
  };
  const model: RunRecord["model"] = {
    source: "tiny",
    revision: null,
    model_map: {
      model_type: "llama",
      n_layers: 0,
      d_model: 0,
      vocab_size: 0,
      max_positions: null,
      parameters: 0,
      discovered: null,
      layers: [],
    },
    numerics: NUMERICS,
    weights_sha256: SHA,
    tokenizer_sha256: SHA,
    bos_token_id: null,
    adds_bos: false,
    self_test: [],
    notices: [],
    seconds: 1,
    reused: false,
    cost: { stack_seconds: 1, head_seconds: 1, peak_bytes: 1, walks: true },
  };
  store.begin(
    { run_id: "a run", identity: { weights: SHA }, model, facts, notices: [] },
    Array.from({ length: blocks }, (_, ordinal) => ({
      split: "evaluation" as const,
      ordinal,
      position: 100 + 7 * ordinal,
      sha256: SHA,
      ...(items[ordinal] && { item: items[ordinal] }),
    })),
    conditions,
    null,
  );
}

/** Numbers with every bit in use. */
export const planted = (condition: number, block: number, shift = 0): number =>
  100 + Math.sin(1 + condition * 1.7 + shift) + Math.cos(block * (2.3 + condition / 7)) / 3;

export function measured(
  condition: number,
  blocks: readonly number[],
  columns: readonly string[] = ["nll"],
): Measured {
  return {
    condition,
    batch: 0,
    blocks,
    sums: Object.fromEntries(
      columns.map((name, shift) => [
        name,
        Float64Array.from(blocks, (block) => planted(condition, block, shift)),
      ]),
    ),
    seconds: 0.25,
    flags: [],
    error: null,
  };
}
