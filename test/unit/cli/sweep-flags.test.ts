/** A sweep in flags: the config that it is, where its results go, and what is wrong with it in its own words. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { configOfFlags, type SweepConfigFlags } from "../../../src/cli/sweep-flags.ts";
import { identityConfig, parseConfig } from "../../../src/config/load.ts";
import { directionBytes, readDirection } from "../../../src/directions/file.ts";

const desk = mkdtempSync(join(tmpdir(), "sparkablate-flags-"));
afterAll(() => rmSync(desk, { recursive: true }));
const model = join(desk, "model");
mkdirSync(model);
writeFileSync(join(model, "config.json"), JSON.stringify({ max_position_embeddings: 256 }));
const text = join(desk, "text.txt");
const other = join(desk, "other.txt");
writeFileSync(text, "words ".repeat(10));
writeFileSync(other, "other words ".repeat(10));
const direction = join(desk, "d.safetensors");
writeFileSync(
  direction,
  directionBytes({ vector: Float32Array.of(0.6, 0.8), sha256: "", layer: null, norm: 1 }, {}),
);
const { sha256 } = readDirection(direction);

const NONE = { condition: [], direction: [], from: [], set: [], given: [] };
const flags = (given: Partial<SweepConfigFlags>): SweepConfigFlags => ({ ...NONE, model, text, ...given });
const ofFlags = (given: Partial<SweepConfigFlags>) => configOfFlags(flags(given));
const directory = (given: Partial<SweepConfigFlags>): string => ofFlags(given).config.output.dir;

describe("the config that flags are", () => {
  it.each<Partial<SweepConfigFlags>>([
    { sweep: "heads" },
    { sweep: "mlp", layers: "0..2,-1", mode: "zero,mean", positions: "not_first" },
    { sweep: "layers", output: "results/here", set: ["eval.seed=3", "eval.batch_size=2"] },
    { condition: ["L3..5.mlp.zero", "{kind: attn, layer: 1}", "L-1.head[0,2..3].mean@not_first"] },
    { condition: ["L0..1.head[1..2].zero + L3.mlp.zero"], each: true },
    { sweep: "attn", given: ["L0..1.mlp.mean", "{kind: head, layer: 2, heads: [1]}"] },
    {
      sweep: "attn",
      given: [`dir[${sha256.slice(0, 6)}].project_out(layers=[1])`],
      direction: [direction],
    },
    {
      condition: [`dir[${sha256.slice(0, 6)}].project_out(layers=[1]) + L3.mlp.zero`],
      direction: [direction],
    },
  ])("is printed as one that is the same run: %j", (given) => {
    const { config, yaml } = ofFlags(given);
    const again = parseConfig(yaml, "again.yaml");
    expect(again).toEqual(config);
    expect(identityConfig(again)).toEqual(identityConfig(config));
  });

  it("has blocks that fit a model with few positions", () => {
    expect(ofFlags({ sweep: "mlp" }).config.eval.seq_len).toBe(256);
    expect(ofFlags({ sweep: "mlp", set: ["eval.seq_len=128"] }).config.eval.seq_len).toBe(128);
  });

  it("lists every layer and head with --each, and takes them together without", () => {
    const condition = ["L0..1.head[1..2].zero"];
    const { targets } = ofFlags({ condition }).config.ablation;
    expect(targets.map((specs) => specs.length)).toEqual([2]);
    const each = ofFlags({ condition, each: true }).config.ablation.targets;
    expect(each.map((specs) => specs.map((spec) => "heads" in spec && [spec.layer, spec.heads]))).toEqual([
      [[0, [1]]],
      [[0, [2]]],
      [[1, [1]]],
      [[1, [2]]],
    ]);
  });
});

describe("the directory of a run without -o", () => {
  it("is the same for the same line", () => {
    expect(directory({ sweep: "heads" })).toBe(directory({ sweep: "heads" }));
    expect(directory({ sweep: "heads" })).toMatch(/results\/model-heads-[0-9a-f]{8}$/);
  });

  it("is another for every other run", () => {
    const runs: Partial<SweepConfigFlags>[] = [
      { sweep: "heads" },
      { sweep: "mlp" },
      { sweep: "heads", mode: "mean" },
      { sweep: "heads", layers: "0..2" },
      { sweep: "heads", text: other },
      { sweep: "heads", set: ["eval.seed=1"] },
      { sweep: "heads", dtype: "float32" },
      { sweep: "heads", given: ["L0.mlp.zero"] },
      { condition: ["L0.mlp.zero"] },
      { condition: ["L1.mlp.zero"] },
      { condition: ["L0.mlp.zero", "L1.mlp.zero"] },
    ];
    expect(new Set(runs.map(directory)).size).toBe(runs.length);
  });
});

describe("what is wrong with them is told in flags", () => {
  it.each<[string, Partial<SweepConfigFlags>]>([
    ["say what to remove: give --sweep layers|heads|kv_groups|attn|mlp, or --condition ID", {}],
    [
      "--condition cannot be combined with --sweep: give one of them",
      { sweep: "mlp", condition: ["L0.mlp.zero"] },
    ],
    ['--given "L0.mlb.zero": "mlb" is no site', { sweep: "mlp", given: ["L0.mlb.zero"] }],
    ["--given baseline edits nothing", { sweep: "mlp", given: ["baseline"] }],
    ["--text cannot be combined with --task: give one of them", { sweep: "mlp", task: "t.jsonl" }],
    [
      "--layers is for --sweep: a condition names its layers itself, like L0..5.mlp.zero",
      { condition: ["L0.mlp.zero"], layers: "1" },
    ],
    [
      "--mode does not apply to ids, which say theirs: write it there, like L5.mlp.mean",
      { condition: ["L0.mlp.zero"], mode: "mean" },
    ],
    [
      '--layers: "1-3": is no list of layers; write one like 3, 0..5 or 0..5,-1',
      { sweep: "mlp", layers: "1-3" },
    ],
    [
      '--mode: "zro" does not fit, did you mean "zero"?; allowed: zero, mean, resample, patch, or a list of them',
      { sweep: "mlp", mode: "zro" },
    ],
    [`--text: ${join(desk, "txt.txt")} does not exist`, { sweep: "mlp", text: join(desk, "txt.txt") }],
    [
      '--condition "L0.mpl.zero": "mpl" is no site; allowed: head, kv_group, attn, neuron, mlp, layer',
      { condition: ["L0.mpl.zero"] },
    ],
    [
      '--condition "dir[00].project_out": no direction is given that dir[00] could name',
      { condition: ["dir[00].project_out"] },
    ],
    [
      '--condition "dir[zz].add": dir[…] holds the first digits',
      { condition: ["dir[zz].add"], direction: [direction] },
    ],
    ['--condition {kind: mlp, layer: x}: layer: "x" does not fit', { condition: ["{kind: mlp, layer: x}"] }],
    ["--condition baseline edits nothing", { condition: ["baseline"] }],
    ['--condition "": a condition is missing', { condition: [""] }],
    [
      "--each is for ids, not for --condition {kind: mlp, layer: 1}",
      { condition: ["{kind: mlp, layer: 1}"], each: true },
    ],
    ['--set eval.seed=x: eval.seed: "x" does not fit', { sweep: "mlp", set: ["eval.seed=x"] }],
  ])("%s", (message, given) => {
    expect(() => ofFlags(given)).toThrow(message);
  });
});
