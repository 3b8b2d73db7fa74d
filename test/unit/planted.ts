/** Measurements with known effects, for the tests of rows and reports. */

import type { Condition, Intervention } from "../../src/protocol/messages.ts";
import { renderPage } from "../../src/report/page.ts";
import type { RunFacts } from "../../src/results/facts.ts";
import type { ConditionMeasurements } from "../../src/results/row.ts";
import { normals } from "./statistics/random.ts";

export const TOKENS = 255;

/** report.html in one text. */
export const pageText = (...parts: Parameters<typeof renderPage>): string =>
  [...renderPage(...parts)].join("");

export function condition(id: string, ...interventions: Intervention[]): Condition {
  return { id, interventions };
}

export function head(layer: number, index: number): Condition {
  const edit: Intervention = { kind: "head", layer, heads: [index], mode: "zero", positions: "all" };
  return condition(`L${layer}.head[${index}].zero`, edit);
}

export function skip(layer: number): Condition {
  return condition(`L${layer}.layer.skip`, { kind: "layer", layer, mode: "skip" });
}

/** @param means NLL of each block, nats per token */
export function measured(
  of: Condition,
  means: readonly number[],
  more: Partial<ConditionMeasurements> = {},
): ConditionMeasurements {
  return {
    condition: of,
    blocks: means.map((_, index) => index),
    sums: { nll: Float64Array.from(means, (mean) => mean * TOKENS) },
    tokens: TOKENS,
    seconds: 1,
    flags: [],
    error: null,
    ...more,
  };
}

export interface Effect {
  readonly of: Condition;
  readonly mean: number;
  readonly sd: number;
}

/** A baseline near 3 nats and, for each effect, block differences with exactly that mean and sd. */
export function sweep(effects: readonly Effect[], blocks: number, seed = 1) {
  const normal = normals(seed);
  const levels = Array.from({ length: blocks }, () => 3 + 0.3 * normal());
  const conditions = effects.map(({ of, mean, sd }) => {
    const noise = standardized(Array.from({ length: blocks }, normal));
    return measured(
      of,
      levels.map((level, block) => level + mean + sd * (noise[block] as number)),
    );
  });
  return { baseline: measured(condition("baseline"), levels), conditions };
}

function standardized(values: readonly number[]): number[] {
  const mean = values.reduce((a, b) => a + b) / values.length;
  const sd = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / (values.length - 1));
  return values.map((value) => (value - mean) / sd);
}

export function facts(more: Partial<RunFacts> = {}): RunFacts {
  return {
    name: "tiny",
    model: "tiny-llama",
    revision: null,
    weights_sha256: "0".repeat(64),
    numerics: {
      dtype: "float32",
      device: "cpu",
      device_name: "cpu",
      cpu_capability: "AVX2",
      attn_implementation: "sdpa",
      threads: 2,
      tf32: false,
      deterministic: true,
      full_logits: false,
      versions: { torch: "2.13.0", transformers: "5.24.0" },
    },
    text: "northanger-abbey.txt",
    calibration: null,
    seq_len: 256,
    batch_size: 4,
    bos: true,
    seed: 0,
    planned_blocks: 32,
    planned_conditions: 4,
    sweep: "layers",
    statistics: { correction: "bh", floor: null },
    config: "model:\n  name: tiny-llama\n",
    version: "0.1.0",
    started: "2026-11-24T20:00:00.000Z",
    finished: "2026-11-24T20:05:00.000Z",
    ...more,
  };
}
