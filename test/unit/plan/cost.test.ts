import { describe, expect, it } from "vitest";
import { peakBytes, sweepCost } from "../../../src/plan/cost.ts";
import type { Condition, Intervention, LoadedModel } from "../../../src/protocol/messages.ts";

const LAYERS = 8;

/** Fields that a sweep's cost rests on. Three quarters of a pass are the stack's. */
const model = (cost: Partial<LoadedModel["cost"]> = {}, dtype = "float32") => ({
  numerics: { dtype },
  model_map: { n_layers: LAYERS, d_model: 16 },
  cost: { stack_seconds: 3, head_seconds: 1, peak_bytes: 1000, walks: true, ...cost },
});
const condition = (...interventions: Intervention[]): Condition => ({
  id: JSON.stringify(interventions),
  interventions,
});
const baseline = condition();
const skip = (layer: number): Condition => condition({ kind: "layer", layer, mode: "skip" });
const batch = (conditions: Condition[], share = 1) => ({ share, conditions });
const passes = (missing: ReturnType<typeof batch>[], cost = {}, metrics = ["nll"]): number =>
  sweepCost(missing, model(cost), metrics).forward_equivalents;

describe("what a sweep will take", () => {
  it("is one pass for the baseline, walked or not", () => {
    expect(passes([batch([baseline])])).toBeCloseTo(1, 12);
    expect(passes([batch([baseline])], { walks: false })).toBeCloseTo(1, 12);
  });

  it("is a pass a condition where the model cannot be walked", () => {
    expect(passes([batch([baseline, skip(0), skip(7)])], { walks: false })).toBeCloseTo(3, 12);
  });

  it("shares what lies below the first edit, and pays the head every time", () => {
    // Layer 0 runs all of the stack, layer 4 its upper half.
    expect(passes([batch([baseline, skip(0)])])).toBeCloseTo(2, 12);
    expect(passes([batch([baseline, skip(4)])])).toBeCloseTo(1 + 0.375 + 0.25, 12);
  });

  it("never exceeds the plain passes, over all layers", () => {
    const conditions = [baseline, ...Array.from({ length: LAYERS }, (_, layer) => skip(layer))];
    const walked = passes([batch(conditions)]);
    expect(walked).toBeLessThan(conditions.length);
    expect(walked).toBeGreaterThan(conditions.length / 2);
  });

  it("counts what is missing alone, and a short last batch by its share", () => {
    expect(passes([])).toBe(0);
    expect(passes([batch([])])).toBe(0);
    expect(passes([batch([baseline]), batch([baseline], 0.25)])).toBeCloseTo(1.25, 12);
  });

  it("runs the unedited model beside the condition for the metrics that compare with it", () => {
    const missing = [batch([baseline, skip(4)])];
    // One head more for each condition, and one stack more for each slice: the run's first condition is alone.
    expect(passes(missing, {}, ["nll", "kl"]) - passes(missing)).toBeCloseTo(2 * 0.75 + 2 * 0.25, 12);
    const many = Array.from({ length: 40 }, () => skip(0));
    const more = (batches: ReturnType<typeof batch>[], cost: object): number =>
      passes(batches, cost, ["top1"]) - passes(batches, cost) - 0.25 * batches.length * many.length;
    // Layer 0 takes 5 s with the other head, and the walk's own pass a little: three of them are a slice.
    expect(more([batch(many)], {})).toBeCloseTo(0.75 * (1 + 13), 12);
    expect(more([batch(many), batch(many)], {})).toBeCloseTo(0.75 * (1 + 13 + 14), 12);
    // A fast model measures a batch in one slice, after the first condition of the run.
    const fast = { stack_seconds: 0.003, head_seconds: 0.001 };
    expect(more([batch(many), batch(many)], fast)).toBeCloseTo(0.75 * (1 + 1 + 1), 12);
  });

  it("takes the seconds of the timed pass", () => {
    const { forward_equivalents, seconds } = sweepCost([batch([baseline, skip(2)])], model(), ["nll"]);
    expect(seconds).toBeCloseTo(forward_equivalents * 4, 12);
  });
});

describe("modes with a source", () => {
  const edit = { mode: "resample", positions: "all" } as const;
  const head = (layer: number, index: number): Condition => ({
    id: `L${layer}.head[${index}].resample`,
    interventions: [{ kind: "head", layer, heads: [index], ...edit }],
  });
  const group = (layer: number): Condition => ({
    id: `L${layer}.kv_group[0].resample`,
    interventions: [{ kind: "kv_group", layer, groups: [0], ...edit }],
  });

  it("cost a stack for every eight sites of a batch", () => {
    const zeroed = ({ id, interventions }: Condition): Condition => ({
      id,
      interventions: interventions.map((one) => ({ ...one, mode: "zero" }) as typeof one),
    });
    const extra = (conditions: Condition[]) =>
      passes([batch(conditions)]) - passes([batch(conditions.map(zeroed))]);
    // Four heads and the group of one layer are one tensor.
    expect(extra([head(0, 0), head(0, 1), head(0, 2), group(0)])).toBeCloseTo(0.75, 12);
    expect(extra(Array.from({ length: 9 }, (_, layer) => head(layer, 0)))).toBeCloseTo(2 * 0.75, 12);
    expect(extra([baseline])).toBe(0);
  });

  it("keep their tensors, eight at most", () => {
    const shape = { batch_size: 2, seq_len: 10, metrics: ["nll"] };
    const peak = (conditions: Condition[]) => peakBytes(model(), { ...shape, conditions });
    const tensor = 2 * 10 * 16 * 4;
    expect(peak([head(0, 0), head(1, 0), group(1)]) - peak([baseline])).toBe(2 * tensor);
    const many = Array.from({ length: 20 }, (_, layer) => head(layer, 0));
    expect(peak(many) - peak([baseline])).toBe(8 * tensor);
  });
});

it("the walk keeps five streams besides the timed pass's peak, in the model's own dtype", () => {
  const shape = { batch_size: 2, seq_len: 10, metrics: ["nll"], conditions: [baseline] };
  expect(peakBytes(model(), shape)).toBe(1000 + 5 * 2 * 10 * 16 * 4);
  expect(peakBytes(model({}, "bfloat16"), shape)).toBe(1000 + 5 * 2 * 10 * 16 * 2);
});
