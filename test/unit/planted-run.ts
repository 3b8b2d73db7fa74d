/** A real run directory with planted measurements: what a report reads. */

import { mkdirSync } from "node:fs";
import { sha256 } from "../../src/digest.ts";
import type { RunFacts } from "../../src/results/facts.ts";
import type { ConditionMeasurements } from "../../src/results/row.ts";
import type { Identity } from "../../src/store/fingerprint.ts";
import { RunStore } from "../../src/store/sqlite.ts";

export function plantRun(
  directory: string,
  facts: RunFacts,
  baseline: ConditionMeasurements,
  conditions: readonly ConditionMeasurements[],
  more: { readonly identity?: Identity; readonly n_layers?: number; readonly text?: string } = {},
): void {
  mkdirSync(directory, { recursive: true });
  const store = RunStore.open(directory);
  const all = [baseline, ...conditions];
  const model = {
    source: facts.model,
    revision: facts.revision,
    model_map: {
      model_type: "llama",
      n_layers: more.n_layers ?? 0,
      d_model: 0,
      vocab_size: 0,
      max_positions: null,
      parameters: 0,
      discovered: null,
      layers: [],
    },
    numerics: facts.numerics,
    weights_sha256: facts.weights_sha256,
    tokenizer_sha256: facts.weights_sha256,
    bos_token_id: 1,
    adds_bos: true,
    self_test: [],
    notices: [],
    seconds: 1,
    reused: false,
    cost: { stack_seconds: 1, head_seconds: 1, peak_bytes: 1, walks: true },
  };
  store.begin(
    { run_id: "planted", identity: more.identity ?? {}, model, facts, notices: [] },
    baseline.blocks.map((ordinal) => ({
      split: "evaluation",
      ordinal,
      position: ordinal,
      sha256: sha256(`${more.text ?? facts.text} ${ordinal}`),
    })),
    all.map(({ condition }) => condition),
    null,
  );
  for (const [condition, { blocks, sums, seconds, flags, error }] of all.entries()) {
    if (blocks.length === 0 && error === null) continue;
    store.record({
      condition,
      batch: 0,
      blocks,
      sums: error === null ? sums : {},
      seconds,
      flags,
      error: error && { ...error, detail: "" },
    });
  }
  if (facts.finished !== null) store.finish(facts.finished);
  store.close();
}
