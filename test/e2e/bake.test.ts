/** A bake from the real CLI: the directory stands alone, says what the run says, and refuses what it cannot be. */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type Baked, Controller, parseConfig } from "../../src/index.ts";
import { baked, nllOf, sweepNll } from "../fixtures/baking.ts";
import { directionFile, pickled, unitVector } from "../fixtures/directions.ts";
import {
  cli,
  NORTHANGER,
  processesOf,
  scratch,
  standingWorker,
  sweepFile,
  tinyModel,
} from "../fixtures/harness.ts";
import { needing } from "../fixtures/require.ts";

standingWorker();

const files = (directory: string): string[] => readdirSync(directory).sort();

/** A copy of the tiny model whose config.json says something else. */
function changed(directory: string, settings: Record<string, unknown>): string {
  const model = join(directory, "model");
  cpSync(tinyModel(), model, { recursive: true });
  const file = join(model, "config.json");
  writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...settings }));
  return model;
}

describe("bake", () => {
  it("makes a directory whose NLL is the run's row, and leaves no process and no other file", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    // Shorter than a calibration block: what needs no mean has no use for one.
    const model = changed(directory, { max_position_embeddings: 128 });
    const out = join(directory, "baked", "out");
    const result = await baked(
      model,
      ["--kind", "head", "--layer", "1", "--heads", "1,3", "--worker", "spawn"],
      out,
    );
    expect(result.condition).toBe("L1.head[1,3].zero");
    expect(result.certificate.behaviour.logit_difference).toBe(0);
    expect(result.gguf_command).toBe(
      `python convert_hf_to_gguf.py ${out} --outfile ${out}/model.gguf --outtype f32`,
    );
    // What is published tells nothing of this machine's directories, but for the model's own name.
    for (const file of ["README.md", "sparkablate_bake.json"]) {
      const text = readFileSync(join(out, file), "utf8");
      expect(text).toContain("python convert_hf_to_gguf.py . --outfile ./model.gguf --outtype f32");
      expect(text.replaceAll(model, "MODEL")).not.toContain(directory);
    }
    expect(files(join(directory, "baked"))).toEqual(["out"]);
    expect(processesOf(out)).toEqual([]);
    const target = "{kind: head, layer: 1, heads: [1, 3]}";
    const { nll, blocks } = await sweepNll(directory, model, target);
    expect(Math.abs(nllOf(out, blocks) - nll)).toBeLessThan(1e-6);
  });

  it("bakes a config's entries jointly, a direction among them", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const model = tinyModel();
    const direction = directionFile(join(directory, "d.safetensors"), unitVector(64));
    const output = join(directory, "run");
    const ablation = `sweep: custom
  targets:
    - {kind: mlp, layer: 2}
    - {kind: direction, path: ${direction}, op: project_out}`;
    const config = sweepFile(directory, { model, output, ablation });
    const out = join(directory, "out");
    // No text is read, so it need not be there.
    const changed = ["--set", "ablation.targets[0].layer=1", "--set", "eval.dataset=gone.txt"];
    const ran = await cli(["bake", "-c", config, ...changed, "--out", out, "--json"]);
    expect(ran.exitCode, String(ran.stderr)).toBe(0);
    expect(ran.stderr).toMatch(/condition: L1\.mlp\.zero \+ dir/);
    const { condition, certificate } = JSON.parse(String(ran.stdout)) as Baked;
    expect(condition).toMatch(/^L1\.mlp\.zero \+ dir/);
    expect(certificate.behaviour.logit_difference).toBeGreaterThan(0);
    expect(certificate.behaviour.floor).toBeGreaterThan(0);
  });

  it("puts the run's own mean into a bias", { timeout: 300_000 }, async () => {
    const directory = scratch();
    const model = tinyModel("--bias");
    const out = join(directory, "out");
    const target = "[{kind: head, layer: 1, heads: [2], mode: mean}, {kind: mlp, layer: 2, mode: mean}]";
    const ablation = `sweep: custom\n  targets: [${target}]`;
    const config = sweepFile(directory, { model, output: join(directory, "run"), ablation });
    const ran = await cli(["bake", "-c", config, "--out", out, "--json"]);
    expect(ran.exitCode, String(ran.stderr)).toBe(0);
    const { nll, blocks } = await sweepNll(directory, model, target);
    expect(Math.abs(nllOf(out, blocks) - nll)).toBeLessThan(1e-6);
    const plain = join(directory, "plain");
    const flags = ["--kind", "mlp", "--layer", "0", "--mode", "mean"];
    const refused = await cli(["bake", "-m", model, "--threads", "1", ...flags, "--out", plain]);
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain("--calibration");
    expect(refused.stderr).not.toContain("load");
    const made = await baked(model, [...flags, "--calibration", NORTHANGER], plain);
    expect(made.condition).toBe("L0.mlp.mean");
  });

  it("puts a deleted layer's mean into the layer below", { timeout: 300_000 }, async () => {
    const directory = scratch();
    const model = tinyModel();
    const out = join(directory, "out");
    const target = "{kind: layer, layer: 2, mode: mean}";
    const ablation = `sweep: custom\n  targets: [${target}]`;
    const config = sweepFile(directory, { model, output: join(directory, "run"), ablation });
    const ran = await cli(["bake", "-c", config, "--prune-layers", "--out", out, "--json"]);
    expect(ran.exitCode, String(ran.stderr)).toBe(0);
    const { condition, notes, gguf_command } = JSON.parse(String(ran.stdout)) as Baked;
    expect(condition).toBe("L2.layer.mean");
    expect(notes.join()).toContain("layer 2's in layer 1's");
    expect(gguf_command).toBeNull();
    const { nll, blocks } = await sweepNll(directory, model, target);
    expect(Math.abs(nllOf(out, blocks) - nll)).toBeLessThan(1e-6);
  });

  it("removes another key/value group in each layer", { timeout: 300_000 }, async () => {
    const directory = scratch();
    const model = tinyModel();
    const out = join(directory, "out");
    const config = JSON.parse(readFileSync(join(model, "config.json"), "utf8")) as Record<string, number>;
    const { num_hidden_layers = 0, num_key_value_heads = 0 } = config;
    const groups = Array.from({ length: num_hidden_layers }, (_, layer) => layer % num_key_value_heads);
    const id = groups.map((group, layer) => `L${layer}.kv_group[${group}].zero`).join(" + ");
    const result = await baked(model, ["--condition", id, "--prune-kv-groups"], out);
    expect(result.condition).toBe(id);
    expect(result.notes.join()).toMatch(/parameters: [\d,]+ before, [\d,]+ after/);
    const smaller = JSON.parse(readFileSync(join(out, "config.json"), "utf8")) as Record<string, number>;
    expect(smaller.num_key_value_heads).toBe(num_key_value_heads - 1);
    const target = `[${groups.map((group, layer) => `{kind: kv_group, layer: ${layer}, groups: [${group}]}`).join()}]`;
    const { nll, blocks } = await sweepNll(directory, model, target);
    expect(Math.abs(nllOf(out, blocks) - nll)).toBeLessThan(1e-6);
  });

  it("refuses with a reason, exit code 2 and no directory", { timeout: 600_000 }, async () => {
    const directory = scratch();
    const out = join(directory, "out");
    const model = tinyModel();
    const canary = join(directory, "canary");
    const vector = directionFile(join(directory, "d.safetensors"), unitVector(64), { layer: "1" });
    const wide = directionFile(join(directory, "wide.safetensors"), unitVector(32));
    const evil = pickled(join(directory, "evil.pt"), `Touch("${canary}")`);
    const project = ["--op", "project_out"];
    const refusals: [readonly string[], RegExp][] = [
      [["--kind", "mlp", "--layer", "0", "--positions", "not_first"], /cannot know a token's position/],
      [["--kind", "layer", "--layer", "0", "--mode", "mean", "--prune-layers"], /no layer below it stays/],
      [["--condition", "L0.neuron[1].zero", "--prune-neurons"], /layer 1 loses 0 and layer 0 loses 1/],
      [["--kind", "mlp", "--layer", "0", "--mode", "skip"], /allowed: /],
      [["--direction", vector, "--op", "add"], /new bias in every layer/],
      [["--direction", vector, ...project, "--at", "stream"], /at: stream has no weight equivalent/],
      [["--direction", wide, ...project], /32 entries; allowed: 64/],
      [["--direction", evil, ...project], /evil\.pt/],
      [["--kind", "mlp", "--layer", "0", "--prune-layers"], /no layer is skipped/],
    ];
    for (const [flags, reason] of refusals) {
      const ran = await cli(["bake", "-m", model, "--threads", "1", ...flags, "--out", out]);
      expect(ran.exitCode, flags.join(" ")).toBe(2);
      expect(ran.stderr, flags.join(" ")).toMatch(reason);
      expect(existsSync(out), flags.join(" ")).toBe(false);
    }
    expect(existsSync(canary)).toBe(false);
    const four = changed(directory, {
      quantization_config: { quant_method: "bitsandbytes", load_in_4bit: true },
    });
    const mlp = ["--threads", "1", "--kind", "mlp", "--layer", "0"];
    const packed = await cli(["bake", "-m", four, ...mlp, "--out", out]);
    expect(packed.exitCode).toBe(2);
    expect(packed.stderr).toMatch(/error \(bake_refused\): the source is quantised.*bitsandbytes/);
    mkdirSync(out);
    writeFileSync(join(out, "thesis.txt"), "five years");
    for (const force of [[], ["--force"]]) {
      const ran = await cli(["bake", "-m", model, ...mlp, ...force, "--out", out]);
      expect(ran.exitCode).toBe(2);
      expect(files(out)).toEqual(["thesis.txt"]);
    }
  });

  it("is a method of the controller, which loads again afterwards", { timeout: 300_000 }, async () => {
    const directory = scratch();
    const model = { name: tinyModel(), dtype: "float32", threads: 1 };
    const config = parseConfig(
      JSON.stringify({ model, ablation: { sweep: "custom", targets: [{ kind: "layer", layer: 1 }] } }),
      "test",
    );
    await using controller = new Controller();
    const small = { ...config, eval: { ...config.eval, seq_len: 64 } };
    for (const prune_layers of [false, true]) {
      const out = join(directory, String(prune_layers));
      const result = await controller.bake(small, { out, prune_layers });
      expect(result.certificate.behaviour.logit_difference).toBe(0);
      const { num_hidden_layers } = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
      expect(num_hidden_layers).toBe(prune_layers ? 3 : 4);
    }
  });

  needing("root", () => process.getuid?.() === 0, "only root may mount a small disk")(
    "too small a disk: exit 3, and nothing is there",
    { timeout: 120_000 },
    async () => {
      const directory = scratch();
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]);
      try {
        const out = join(directory, "out");
        const flags = ["--threads", "1", "--kind", "mlp", "--layer", "0"];
        const ran = await cli(["bake", "-m", tinyModel(), ...flags, "--out", out]);
        expect(ran.exitCode).toBe(3);
        expect(ran.stderr).toMatch(/error \(disk_full\).* free, but the bake needs /);
        expect(files(directory)).toEqual([]);
      } finally {
        execFileSync("umount", ["-l", directory]);
      }
    },
  );
});
