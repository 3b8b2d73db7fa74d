/** A config written in TypeScript: its types are the file's keys, its checks and defaults the file's too. */
import { expect, it } from "vitest";
import { type ConfigInput, defineConfig, parseConfig } from "../../../src/config/load.ts";

const WRITTEN: ConfigInput = {
  model: { name: "org/model", dtype: "float32" },
  eval: { dataset: "shipped:corpora/northanger-abbey.txt", seq_len: 64, metrics: ["kl"] },
  ablation: {
    sweep: "custom",
    mode: "zero",
    targets: [
      { kind: "head", layer: 1, heads: [3, 1] },
      [
        { kind: "mlp", layer: 0 },
        { kind: "layer", layer: 2 },
      ],
    ],
  },
  stop: null,
  output: { dir: "results/here" },
};

it("gives what the same YAML gives", () => {
  const yaml = `
model: {name: org/model, dtype: float32}
eval: {dataset: "shipped:corpora/northanger-abbey.txt", seq_len: 64, metrics: [kl]}
ablation:
  sweep: custom
  targets:
    - {kind: head, layer: 1, heads: [3, 1]}
    - [{kind: mlp, layer: 0}, {kind: layer, layer: 2}]
output: {dir: results/here}
`;
  expect(defineConfig(WRITTEN)).toEqual(parseConfig(yaml, "run.yaml"));
  expect(defineConfig({ model: { name: "org/model" } }).output.dir).toMatch(/\/results\/config$/);
});

it("complains as a file is complained about, and the compiler before it", () => {
  // @ts-expect-error no such sweep
  expect(() => defineConfig({ model: { name: "org/model" }, ablation: { sweep: "headz" } })).toThrow(
    /^config:\d+: ablation\.sweep: "headz" does not fit, did you mean "heads"\?/,
  );
  // @ts-expect-error no such key
  expect(() => defineConfig({ model: { name: "org/model", dtyp: "float32" } })).toThrow(
    /did you mean "dtype"/,
  );
  const ablation: ConfigInput["ablation"] = {
    sweep: "custom",
    // @ts-expect-error no such key
    targets: [{ kind: "head", layer: 0, head: 1 }],
  };
  expect(() => defineConfig({ ...WRITTEN, ablation })).toThrow(
    /targets\[0\]\.head: is not a key, did you mean "heads"/,
  );
  // @ts-expect-error a model is needed
  expect(() => defineConfig({})).toThrow(/model/);
});
