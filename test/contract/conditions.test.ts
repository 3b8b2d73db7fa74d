/** Ids, order and overlap of 400 conditions, as 0.1.0 gave them: test/contract/README.md. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { canonical, conditionId, interventionId } from "../../src/conditions/ids.ts";
import { overlaps } from "../../src/conditions/overlaps.ts";
import { condition, type Intervention, type ModelMap, modelMap } from "../../src/protocol/messages.ts";

interface Case {
  readonly interventions: Intervention[];
  readonly id: string;
  readonly order: string[];
  readonly overlap: boolean;
}

const { layers, cases } = JSON.parse(readFileSync(new URL("conditions.json", import.meta.url), "utf8")) as {
  layers: Pick<ModelMap["layers"][number], "n_heads" | "n_kv_heads" | "n_neurons">[];
  cases: Case[];
};

const map = modelMap.parse({
  ...{
    model_type: "llama",
    d_model: 64,
    vocab_size: 96,
    max_positions: null,
    parameters: 1,
    discovered: null,
  },
  n_layers: layers.length,
  layers: layers.map((counts) => ({ ...counts, sites: [], d_head: 16, modules: {} })),
});

describe("conditions.json", () => {
  it("holds hundreds, of every kind", () => {
    expect(cases.length).toBeGreaterThanOrEqual(400);
    const kinds = new Set(cases.flatMap(({ interventions }) => interventions.map(({ kind }) => kind)));
    expect([...kinds].sort()).toEqual(["attn", "direction", "head", "kv_group", "layer", "mlp", "neuron"]);
  });

  it.each(cases)("$id", ({ interventions, id, order, overlap }) => {
    const sorted = canonical(interventions);
    expect(sorted.map(interventionId)).toEqual(order);
    expect(conditionId(sorted)).toBe(id);
    expect(condition.parse({ id, interventions: sorted }).interventions).toEqual(sorted);
    expect(overlaps(interventions, map).length > 0).toBe(overlap);
    expect(overlaps(interventions.toReversed(), map).length > 0).toBe(overlap);
  });
});
