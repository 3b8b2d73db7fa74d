/** Pure: what a sweep will take, from its conditions and from one unedited pass that the worker has timed. */

import { DONOR_MODES, LIMITS, SITES } from "../protocol/catalog.ts";
import type { Condition, LoadedModel, ModelMap } from "../protocol/messages.ts";
import { comparesLogits } from "../protocol/metrics.ts";
import { BASELINE_LAYER, firstLayer, slicesOf } from "./slices.ts";

/** What of a loaded model the estimates rest on. */
interface TimedModel {
  readonly cost: LoadedModel["cost"];
  readonly model_map: Pick<LoadedModel["model_map"], "n_layers" | "d_model">;
  readonly numerics: Pick<LoadedModel["numerics"], "dtype">;
}

export interface SweepCost {
  /** In units of one unedited pass over a full batch: the walk shares what lies below a condition's first edit. */
  readonly forward_equivalents: number;
  readonly seconds: number;
  /** (condition, batch) pairs that are missing. */
  readonly pairs: number;
}

/** How many tensors conditions take from a mode's donor; a key/value group's is its heads'. */
function donorSites(conditions: readonly Condition[], mode: string): number {
  const sites = conditions.flatMap(({ interventions }) =>
    interventions.flatMap((one) =>
      "mode" in one && one.mode === mode ? [`${one.layer} ${SITES[one.kind].values}`] : [],
    ),
  );
  return new Set(sites).size;
}

/** What one batch still lacks. */
export interface MissingOnBatch {
  /** Share of a full batch's blocks. */
  readonly share: number;
  readonly conditions: readonly Condition[];
}

/**
 * Layers count as equal, and a condition as running from the start of its first edited layer: an upper estimate,
 * since the walk starts inside that layer where it can. Edits themselves cost next to nothing and are left out.
 */
export function sweepCost(
  missing: Iterable<MissingOnBatch>,
  { cost, model_map }: TimedModel,
  metrics: readonly string[],
): SweepCost {
  const seconds = cost.stack_seconds + cost.head_seconds;
  const stack = seconds === 0 ? 1 : cost.stack_seconds / seconds;
  const compares = comparesLogits(metrics);
  const head = (1 - stack) * (compares ? 2 : 1);
  let equivalents = 0;
  let pairs = 0;
  for (const { share, conditions } of missing) {
    if (conditions.length === 0) continue;
    pairs += conditions.length;
    const passes = conditions.reduce(
      (sum, condition) => sum + (cost.walks ? shareAbove(condition, model_map.n_layers) : 1),
      cost.walks ? 1 : 0,
    );
    // A donor's own pass ends at its highest site; here it counts as a whole one.
    const recorded = DONOR_MODES.reduce(
      (sum, mode) => sum + Math.ceil(donorSites(conditions, mode) / LIMITS.kept_donors),
      0,
    );
    const alone = (passes + recorded) * stack + conditions.length * head;
    // What logits are compared with is run once a slice.
    const each = (share * alone * seconds) / conditions.length;
    const baselines = compares ? slicesOf(conditions.length, each, equivalents === 0) : 0;
    equivalents += share * (alone + baselines * stack);
  }
  return { forward_equivalents: equivalents, seconds: equivalents * seconds, pairs };
}

/** The head's share of a pass's work: that of its weights among those that a token meets. */
export function headShare(
  { d_model, vocab_size, layers }: Pick<ModelMap, "d_model" | "vocab_size" | "layers">,
  parameters: number | null,
): number {
  const head = d_model * vocab_size;
  const [layer] = layers;
  const block =
    layer === undefined
      ? 0
      : 2 * d_model * layer.d_head * (layer.n_heads + layer.n_kv_heads) + 3 * d_model * layer.n_neurons;
  const all = parameters !== null && parameters > 2 * head ? parameters : head + layers.length * block;
  return head / all;
}

/** Tensors [batch, pos, d_model] that the walk keeps or copies: stream, output, attention's and projection's input. */
const KEPT_STREAMS = 5;
const BYTES_PER_NUMBER = { float32: 4, bfloat16: 2, float16: 2 } as const;

/** Largest memory during the sweep: that of the timed pass, and what the walk and a comparison keep besides. */
export function peakBytes(
  { cost, model_map, numerics }: TimedModel,
  { batch_size, seq_len, metrics, conditions }: RunShape,
): number {
  const bytes = BYTES_PER_NUMBER[numerics.dtype as keyof typeof BYTES_PER_NUMBER] ?? 4;
  const stream = batch_size * seq_len * model_map.d_model * bytes;
  const recorded = DONOR_MODES.reduce(
    (sum, mode) => sum + Math.min(LIMITS.kept_donors, donorSites(conditions, mode)),
    0,
  );
  return cost.peak_bytes + (KEPT_STREAMS + recorded + (comparesLogits(metrics) ? 1 : 0)) * stream;
}

interface RunShape {
  readonly batch_size: number;
  readonly seq_len: number;
  readonly metrics: readonly string[];
  readonly conditions: readonly Condition[];
}

/** Share of the stack that a condition runs itself; the baseline's is the walk's way up. */
function shareAbove(condition: Condition, layers: number): number {
  const first = firstLayer(condition);
  return first === BASELINE_LAYER ? 0 : (layers - Math.max(first, 0)) / layers;
}
