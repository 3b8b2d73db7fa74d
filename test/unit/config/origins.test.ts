/** Where a key was written goes along with a config, in whichever copy its section stands. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseConfig, type RunConfig } from "../../../src/config/load.ts";
import { asWritten } from "../../../src/config/problems.ts";
import { planConditions } from "../../../src/plan/conditions.ts";
import type { SiteKind } from "../../../src/protocol/catalog.ts";
import { modelMap } from "../../../src/protocol/messages.ts";
import { jointly } from "../../../src/run/bake.ts";

const SITES: SiteKind[] = ["head", "attn", "mlp", "layer", "direction"];
const LAYER = { sites: SITES, n_heads: 6, n_kv_heads: 2, n_neurons: 64, d_head: 16, modules: {} };
const MAP = modelMap.parse({
  ...{
    model_type: "llama",
    d_model: 96,
    vocab_size: 100,
    max_positions: 2048,
    parameters: 1,
    discovered: null,
  },
  n_layers: 3,
  layers: [LAYER, LAYER, LAYER],
});

let cwd: string;
beforeAll(() => {
  cwd = mkdtempSync(join(tmpdir(), "sparkablate-origins-"));
  writeFileSync(join(cwd, "d.safetensors"), "");
});
afterAll(() => rmSync(cwd, { recursive: true }));

const parse = (text: string, set: string[] = []): RunConfig =>
  parseConfig(`model: {name: org/model}\n${text}`, "run.yaml", { cwd, set });

/** What the planner finds wrong, a line each. */
function refusal(config: RunConfig): string[] {
  const facts = { sha256: "0f".repeat(32), layer: null };
  try {
    planConditions(config, MAP, new Map([[join(cwd, "d.safetensors"), facts]]));
  } catch (error) {
    return (error as Error).message.split("\n");
  }
  throw new Error("accepted");
}

const TOO_LONG = "eval.seq_len: 4096 does not fit; allowed: up to 2048 (the model's positions)";

describe("a copy", () => {
  it("names file and line of the sections that it holds", () => {
    const config = parse("eval:\n  batch_size: 2\n  seq_len: 4096\n");
    expect(refusal(config)).toEqual([`run.yaml:4: ${TOO_LONG}`]);
    expect(refusal({ ...config, output: { dir: "/elsewhere" } })).toEqual([`run.yaml:4: ${TOO_LONG}`]);
    const other = asWritten(config.eval, { ...config.eval, skip_batches: 2 });
    expect(refusal({ ...config, eval: other })).toEqual([`run.yaml:4: ${TOO_LONG}`]);
  });

  it("names the override", () => {
    const config = parse("eval: {batch_size: 2}\n", ["eval.seq_len=4096"]);
    expect(refusal({ ...config, stop: null })).toEqual([`--set eval.seq_len=4096: ${TOO_LONG}`]);
  });

  it("names no line of a section that was written elsewhere", () => {
    const config = parse("eval:\n  seq_len: 64\n");
    expect(refusal({ ...config, eval: { ...config.eval, seq_len: 4096 } })).toEqual([`config: ${TOO_LONG}`]);
    expect(refusal(structuredClone({ ...config, eval: { ...config.eval, seq_len: 4096 } }))).toEqual([
      `config: ${TOO_LONG}`,
    ]);
  });

  it("shows nothing of it", () => {
    const config = parse("ablation:\n  sweep: custom\n  targets:\n    - {kind: mlp, layer: 1}\n");
    expect(JSON.parse(JSON.stringify(config))).toStrictEqual(config);
    expect(structuredClone(config)).toStrictEqual(config);
    for (const part of [config, config.eval, config.ablation.targets[0]?.[0]])
      expect(Object.getOwnPropertySymbols({ ...part })).toEqual([]);
  });
});

describe("entries that are baked together", () => {
  it("are named by their own lines and keys", () => {
    const config = parse(`ablation:
  sweep: custom
  targets:
    - [{kind: mlp, layer: 7}]
    - [{kind: attn, layer: 0},
       {kind: mlp, layer: 8}]
  directions:
    - {path: d.safetensors, op: project_out, at: stream, layers: [9]}
`);
    const lines = refusal(jointly(config, "float32")).map((line) => line.split(";")[0]);
    expect(lines).toEqual([
      "run.yaml:5: ablation.targets[0].layer: layer 7 does not exist",
      "run.yaml:7: ablation.targets[1][1].layer: layer 8 does not exist",
      "run.yaml:9: ablation.directions[0].layers: layer 9 does not exist",
    ]);
    // As without the bake.
    expect(refusal(config).map((line) => line.split(";")[0])).toEqual(lines);
  });

  it("are named by their list where one is inside another", () => {
    const config = parse(`ablation:
  sweep: custom
  targets:
    - {kind: mlp, layer: 1}
    - {kind: layer, layer: 1}
`);
    expect(refusal(jointly(config, "source"))).toEqual([
      expect.stringMatching(/^run\.yaml:4: ablation\.targets: /),
    ]);
  });
});
