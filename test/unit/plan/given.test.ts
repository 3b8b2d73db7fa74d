/** `ablation.given` of a config: what is left out of a sweep, and what is refused at its line. */
import { describe, expect, it } from "vitest";
import { identityConfig, parseConfig, resolvedYaml } from "../../../src/config/load.ts";
import { SparkablateError } from "../../../src/errors.ts";
import { planConditions } from "../../../src/plan/conditions.ts";
import { edited, meanSites } from "../../../src/plan/needs.ts";
import { type ModelMap, modelMap } from "../../../src/protocol/messages.ts";

const sites = ["head", "kv_group", "attn", "neuron", "mlp", "layer", "direction"];
const layer = { sites, n_heads: 4, n_kv_heads: 2, n_neurons: 64, d_head: 16, modules: {} };
const map: ModelMap = modelMap.parse({
  model_type: "llama",
  n_layers: 3,
  d_model: 64,
  vocab_size: 100,
  max_positions: null,
  parameters: 1,
  discovered: null,
  layers: [layer, layer, layer],
});

const config = (ablation: string) =>
  parseConfig(`model: {name: org/model}\nablation:\n${ablation.replaceAll(/^ {4}/gm, "")}`, "run.yaml");
const plan = (ablation: string) => planConditions(config(ablation), map);
const ids = (ablation: string) => plan(ablation).conditions.map(({ id }) => id);

function refusal(ablation: string): { code: string; lines: string[] } {
  try {
    plan(ablation);
  } catch (error) {
    if (!(error instanceof SparkablateError)) throw error;
    return { code: error.code, lines: error.message.split("\n") };
  }
  throw new Error(`accepted: ${ablation}`);
}

describe("a sweep on top of given edits", () => {
  it("leaves out what they cover, and says so; what contains them stays", () => {
    const heads = `
      sweep: heads
      layers: [1]
      given: ["L1.head[0].zero", "L1.head[3].mean + L-1.attn.zero"]`;
    expect(ids(heads)).toEqual(["baseline", "L1.head[1].zero", "L1.head[2].zero"]);
    expect(plan(heads).notices).toEqual([
      "given L1.head[0].zero + L1.head[3].mean + L2.attn.zero: it acts in every condition, and in the baseline",
      "sweep: heads leaves out L1.head[0].zero, L1.head[3].zero: ablation.given edits these already, in whole or in part",
    ]);
    expect(plan(heads).given).toEqual([
      { kind: "head", heads: [0], layer: 1, mode: "zero", positions: "all" },
      { kind: "head", heads: [3], layer: 1, mode: "mean", positions: "all" },
      { kind: "attn", layer: 2, mode: "zero", positions: "all" },
    ]);
    // Means are asked for, though no condition has one.
    expect(meanSites(edited(plan(heads)))).toEqual([{ kind: "head", layer: 1, positions: "all" }]);
    expect(ids("  sweep: layers\n  given: [L1.layer.skip, L0.mlp.zero]")).toEqual([
      "baseline",
      "L0.layer.skip",
      "L2.layer.skip",
    ]);
  });

  it("may leave nothing, which is refused", () => {
    expect(refusal("  sweep: layers\n  layers: [0]\n  given: [L0.layer.skip]").lines[0]).toContain(
      "finds nothing to edit in this model",
    );
  });
});

describe("targets on top of given edits", () => {
  it.each([
    ["the same site", "L0.head[1].mean", "L0.head[1].mean lies in what ablation.given edits"],
    ["inside", "L1.neuron[3].zero", "L1.neuron[3].zero lies in what ablation.given edits"],
    ["in part", "L0.head[1,3].zero", "overlaps L0.head[1,2].zero of ablation.given: a part of it"],
  ])("are refused at their line: %s", (_, target, words) => {
    const { code, lines } = refusal(`
      sweep: custom
      given: ["L0.head[1,2].zero + L1.mlp.zero"]
      targets: ["${target}"]`);
    expect(code).toBe("conditions_overlap");
    expect(lines[0]).toMatch(/^run\.yaml:6: ablation\.targets\[0\]: /);
    expect(lines[0]).toContain(words);
  });
});

describe("pairs of a run", () => {
  const earlier = (...layers: number[]) => ({
    components: layers.map((at) => ({ kind: "mlp", layer: at, mode: "zero", positions: "all" }) as const),
  });
  // What the config says of `from` was checked when it was read.
  const ablation = { ...config("  sweep: attn\n  given: [L0.mlp.mean]").ablation, sweep: "pairs" as const };
  const pairs = { ...config("  sweep: attn"), ablation: { ...ablation, from: "earlier", top: 2 } };

  it("leave out what is given, and say when they come from other ground", () => {
    const { conditions, notices } = planConditions(pairs, map, new Map(), earlier(0, 1, 2));
    expect(conditions.map(({ id }) => id)).toEqual([
      "baseline",
      "L1.mlp.zero",
      "L2.mlp.zero",
      "L1.mlp.zero + L2.mlp.zero",
    ]);
    expect(notices).toContain(
      "earlier was measured on top of nothing, this run is on top of L0.mlp.mean: its largest effects need not be this run's",
    );
    const same = planConditions(pairs, map, new Map(), { ...earlier(1, 2), given: "L0.mlp.mean" });
    expect(same.notices).toHaveLength(1);
  });
});

describe("what is given", () => {
  it.each([
    ["[L7.mlp.zero]", "ablation.given[0].layer: layer 7 does not exist"],
    ['["L0.head[9].zero"]', "ablation.given[0].heads: head 9 does not exist"],
    ["[L-9.mlp.zero]", "ablation.given[0].layer: layer -9 does not exist"],
    [
      "[L0.mlp.zero, L0.mlp.mean]",
      "ablation.given: L0.mlp.zero and L0.mlp.mean overlap: the same site twice",
    ],
    [
      "[{kind: mlp, layer: 0, mode: [zero, mean]}]",
      "ablation.given[0]: everything is measured on top of it once",
    ],
    ["[L0.mlp.patch]", "ablation.source: is missing"],
    ["[L0.mlb.zero]", 'ablation.given[0]: "L0.mlb.zero": "mlb" is no site'],
    ["L0.mlp.zero", 'ablation.given: "L0.mlp.zero" does not fit; allowed: a list of specs'],
  ])("is refused by its key: %s", (given, words) => {
    const { lines } = refusal(`  sweep: attn\n  given: ${given}`);
    expect(lines.join("\n")).toContain(words);
    expect(lines[0]).toMatch(/^run\.yaml(:\d+)?: /);
  });

  it("may be means where layers are skipped, which have none", () => {
    expect(ids("  sweep: layers\n  given: [L0.mlp.mean@not_first]")).toHaveLength(1 + 3);
  });

  it("changes nothing where it is empty: neither config nor identity nor plan", () => {
    const without = config("  sweep: attn");
    for (const empty of ["[]", "null"]) {
      const written = config(`  sweep: attn\n  given: ${empty}`);
      expect(resolvedYaml(written)).toBe(resolvedYaml(without));
      expect(identityConfig(written)).toEqual(identityConfig(without));
      expect(planConditions(written, map)).toEqual(planConditions(without, map));
    }
    expect(planConditions(without, map)).not.toHaveProperty("given");
  });

  it("reads back from the config that a run keeps", () => {
    const written = config("  sweep: attn\n  given: [L0.mlp.zero, [{kind: head, layer: 1, heads: [2]}]]");
    expect(parseConfig(resolvedYaml(written), "config.yaml")).toEqual(written);
  });
});
