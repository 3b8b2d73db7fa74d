/** Conditions written as ids, and layers counted from the end, on their way from a config to the plan. */
import { describe, expect, it } from "vitest";
import { identityConfig, parseConfig, resolvedYaml } from "../../../src/config/load.ts";
import { planConditions } from "../../../src/plan/conditions.ts";
import { modelMap } from "../../../src/protocol/messages.ts";

const LAYER = {
  sites: ["head", "kv_group", "attn", "neuron", "mlp", "layer", "direction"],
  ...{ n_heads: 6, n_kv_heads: 2, n_neurons: 64, d_head: 16, modules: {} },
};
const MAP = modelMap.parse({
  ...{
    model_type: "llama",
    d_model: 96,
    vocab_size: 100,
    max_positions: 2048,
    parameters: 1,
    discovered: null,
  },
  ...{ n_layers: 4, layers: [LAYER, LAYER, LAYER, LAYER] },
});

const config = (ablation: string) =>
  parseConfig(`model: {name: org/model}\nablation: ${ablation}\n`, "run.yaml");
const plan = (ablation: string) => planConditions(config(ablation), MAP);
const ids = (ablation: string) =>
  plan(ablation)
    .conditions.slice(1)
    .map(({ id }) => id);
const targets = (...texts: string[]) => `{sweep: custom, targets: ${JSON.stringify(texts)}}`;

describe("a target that is an id", () => {
  it("is the config of the spec that it names, to the letter of what is stored", () => {
    const written = config(targets("L1.head[3,2].zero", "L3.layer.skip", "L0.mlp.mean@not_first"));
    const spelled = config(
      `{sweep: custom, targets: [{kind: head, layer: 1, heads: [2, 3]}, {kind: layer, layer: 3},
        {kind: mlp, layer: 0, mode: mean, positions: not_first}]}`,
    );
    expect(resolvedYaml(written)).toBe(resolvedYaml(spelled));
    expect(identityConfig(written)).toEqual(identityConfig(spelled));
  });

  it("is one condition, of a range too; in a list it is a part of one", () => {
    expect(ids(targets("L1..3.mlp.zero", "L1.mlp.zero + L0.attn.mean"))).toEqual([
      "L1.mlp.zero + L2.mlp.zero + L3.mlp.zero",
      "L0.attn.mean + L1.mlp.zero",
    ]);
    expect(ids(`{sweep: custom, targets: [["L1.mlp.zero", {kind: layer, layer: 0}]]}`)).toEqual([
      "L0.layer.skip + L1.mlp.zero",
    ]);
  });

  it("has its own mode and positions, whatever the sweep's are", () => {
    expect(ids(`{sweep: custom, mode: mean, positions: not_first, targets: [L1.mlp.zero]}`)).toEqual([
      "L1.mlp.zero",
    ]);
  });

  it.each([
    [
      "L1.mpl.zero",
      'run.yaml:2: ablation.targets[0]: "L1.mpl.zero": "mpl" is no site; allowed: head, kv_group, attn, neuron, mlp, layer',
    ],
    [
      "dir[1a].project_out",
      'run.yaml:2: ablation.targets[0]: "dir[1a].project_out": no direction is given that dir[1a] could name: give its file with --direction, or in a config as {kind: direction, path: FILE, op: project_out}',
    ],
    [
      "joint[3 interventions, 0123456789abcdef]",
      'run.yaml:2: ablation.targets[0]: "joint[3 interventions, 0123456789abcdef]": stands for an id that was too long to be printed: give the run that holds it',
    ],
    [
      "L9.mlp.zero",
      "run.yaml:2: ablation.targets[0].layer: layer 9 does not exist; allowed: 0 to 3 (the model has 4 layers)",
    ],
    [
      "L-9.mlp.zero",
      "run.yaml:2: ablation.targets[0].layer: layer -9 does not exist; allowed: from -4 to 3 (the model has 4 layers)",
    ],
    [
      "L3.mlp.zero + L-1.mlp.mean",
      "run.yaml:2: ablation.targets[0]: L3.mlp.zero and L3.mlp.mean overlap: the same site twice: remove one",
    ],
  ])("%s is refused where it stands", (text, message) => {
    expect(() => plan(targets(text))).toThrow(expect.objectContaining({ message }));
  });
});

describe("layers counted from the end", () => {
  it("are the model's, in targets and in sweeps", () => {
    expect(ids(targets("L-1.attn.zero", "L-2..-1.mlp.zero"))).toEqual([
      "L3.attn.zero",
      "L2.mlp.zero + L3.mlp.zero",
    ]);
    expect(ids("{sweep: mlp, layers: [-1, 0, 3]}")).toEqual(["L0.mlp.zero", "L3.mlp.zero"]);
    expect(ids(`{sweep: mlp, layers: "0..1,-1"}`)).toEqual(["L0.mlp.zero", "L1.mlp.zero", "L3.mlp.zero"]);
    expect(ids("{sweep: mlp, layers: 1..2}")).toEqual(["L1.mlp.zero", "L2.mlp.zero"]);
  });

  it("leave a config that has none as it is", () => {
    expect(identityConfig(config("{sweep: mlp, layers: [0, 2]}"))).toEqual(
      identityConfig(config("{sweep: mlp, layers: '0,2'}")),
    );
  });

  it.each([
    ["{sweep: mlp, layers: [-5]}", "layer -5 does not exist; allowed: from -4 to 3 (the model has 4 layers)"],
    ["{sweep: mlp, layers: 0..-1}", "the range 0..-1 has one end counted from the last layer"],
    ["{sweep: mlp, layers: 0-5}", '"0-5": is no list of layers; write one like 3, 0..5 or 0..5,-1'],
  ])("%s is refused", (ablation, message) => {
    expect(() => plan(ablation)).toThrow(message);
  });
});
