/** Texts with and without ablations, from the real CLI, against stock transformers. */
import { execFileSync } from "node:child_process";
import { copyFileSync, cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import type { Comparison } from "../../src/index.ts";
import { directionFile, unitVector } from "../fixtures/directions.ts";
import { cli, NORTHANGER, processesOf, scratch, standingWorker, tinyModel } from "../fixtures/harness.ts";

standingWorker();

const PROMPTS = ["The capital of France is", "Once upon a time"];

/** New tokens of stock transformers' generate, a list a prompt. */
function stock(model: string, tokens: number, prompts: readonly string[]): number[][] {
  const script = join(packageRoot(), "test", "fixtures", "generate.py");
  const { python } = resolveEnvironment();
  return JSON.parse(execFileSync(python, [script, model, String(tokens), ...prompts], { encoding: "utf8" }));
}

async function compare(args: readonly string[], mark?: string): Promise<Comparison> {
  const ran = await cli(["compare", "--threads", "1", "--json", ...args], mark === undefined ? {} : { mark });
  expect(ran.exitCode, String(ran.stderr)).toBe(0);
  return JSON.parse(String(ran.stdout)) as Comparison;
}

describe("compare", () => {
  it("and direction say what loading the model noticed", async () => {
    const directory = scratch();
    const model = join(directory, "model");
    cpSync(tinyModel(), model, { recursive: true });
    writeFileSync(join(model, "adapter_config.json"), "{}");
    copyFileSync(join(model, "model.safetensors"), join(model, "adapter_model.safetensors"));
    const prompts = (name: string) => {
      const path = join(directory, name);
      writeFileSync(path, Array.from({ length: 9 }, (_, index) => `${name} ${index}\n`).join(""));
      return path;
    };
    const asked = [
      ["compare", "--kind", "layer", "--layer", "0", "--prompt", "A cat", "--max-new-tokens", "2"],
      [
        "direction",
        ...["--positive", prompts("warm"), "--negative", prompts("cold")],
        ...["--out", join(directory, "d.safetensors")],
      ],
    ];
    for (const args of asked) {
      const { exitCode, stderr } = await cli([...args, "-m", model, "--dtype", "float32", "--threads", "1"]);
      expect(exitCode, String(stderr)).toBe(0);
      expect(String(stderr)).toContain("an adapter beside the model: it is not applied");
    }
  });

  it("compares several conditions and prompt files in one load, the baseline as stock transformers", async () => {
    const directory = scratch();
    const model = tinyModel();
    const file = join(directory, "prompts.txt");
    writeFileSync(file, `${PROMPTS.join("\n\n")}\n`);
    const direction = directionFile(join(directory, "d.safetensors"), unitVector(64), {
      layer: "1",
      norm: "9",
    });
    const {
      conditions,
      prompts,
      model: loaded,
    } = await compare(
      [
        ...[
          "-m",
          model,
          "--dtype",
          "float32",
          "--prompt",
          "A cat",
          "--prompts",
          file,
          "--max-new-tokens",
          "12",
        ],
        ...[
          "--kind",
          "head",
          "--layer",
          "1",
          "--heads",
          "3",
          "0",
          "--mode",
          "mean",
          "--calibration",
          NORTHANGER,
        ],
        ...["--direction", direction, "--op", "add"],
        ...["--condition", "{kind: layer, layer: 0}"],
        ...["--condition", `{kind: direction, path: ${direction}, op: project_out, coefficient: 0}`],
      ],
      directory,
    );
    expect(conditions.map(({ id }) => id.replace(/\[[0-9a-f]{8}\]/, ""))).toEqual([
      "baseline",
      "L1.head[0,3].mean + dir.add(layers=[1])",
      "L0.layer.skip",
      "dir.project_out(coefficient=0)",
    ]);
    expect(prompts.map(({ prompt }) => prompt)).toEqual(["A cat", ...PROMPTS]);
    expect(loaded.numerics.dtype).toBe("float32");
    const theirs = stock(model, 12, ["A cat", ...PROMPTS]);
    for (const [index, { texts }] of prompts.entries()) {
      expect(texts.map(({ condition }) => condition)).toEqual(conditions.map(({ id }) => id));
      const [baseline, ...edited] = texts;
      expect(baseline?.ids).toEqual(theirs[index]);
      for (const { ids, agreement } of edited) {
        const same = ids.findIndex((id, at) => id !== baseline?.ids[at]);
        expect(agreement?.tokens).toBe(same < 0 ? Math.min(ids.length, baseline?.ids.length ?? 0) : same);
        expect(agreement?.identical).toBe(ids.join() === baseline?.ids.join());
      }
      expect(edited[2]?.agreement?.identical).toBe(true);
    }
    expect(processesOf(directory)).toEqual([]);
  });

  it("on SmolLM2: without the ablation it is model.generate token for token; skipping layer 0 works; templates", {
    timeout: 600_000,
  }, async () => {
    const { home } = resolveEnvironment();
    const model = join(home, "models", "smollm2-135m-instruct");
    const edits = [
      "--kind",
      "layer",
      "--layer",
      "0",
      "--condition",
      "{kind: head, layer: 14, heads: [3, 7]}",
    ];
    const { prompts } = await compare([
      ...["-m", "builtin:smollm2-135m", "--max-new-tokens", "16", ...edits],
      ...PROMPTS.flatMap((prompt) => ["--prompt", prompt]),
    ]);
    const theirs = stock(model, 16, PROMPTS);
    for (const [index, { texts }] of prompts.entries()) {
      expect(texts[0]?.ids).toEqual(theirs[index]);
      expect(texts[1]).toMatchObject({
        condition: "L0.layer.skip",
        error: null,
        agreement: { identical: false },
      });
      expect(texts[1]?.ids.length).toBeGreaterThan(0);
    }
    expect(prompts[0]?.texts[0]?.text).toMatch(/^ Paris/);

    const chat = await compare([
      ...["-m", "builtin:smollm2-135m", "--max-new-tokens", "24", ...edits],
      ...["--chat-template", "--prompt", "What is the capital of France?"],
    ]);
    expect(chat.prompts[0]?.prompt_tokens).toBeGreaterThan(20);
    expect(chat.prompts[0]?.texts[0]?.text).toMatch(/Paris/);
  });

  it("says what is missing or wrong before anything is loaded, or names what does not fit the model", async () => {
    const model = ["-m", tinyModel(), "--dtype", "float32"];
    const prompt = ["--prompt", "A cat"];
    const layer = ["--kind", "layer", "--layer", "0"];
    const cases: [string[], RegExp][] = [
      [[...model, ...prompt], /name something to edit with --kind, --direction or --condition/],
      [[...model, ...layer], /there is no prompt: give one with --prompt or --prompts/],
      [[...model, ...prompt, "--heads", "3"], /--heads needs --kind/],
      [[...model, ...prompt, "--op", "add"], /--op needs --direction/],
      [
        [...model, ...prompt, "--kind", "head", "--layer", "0"],
        /--heads: is missing; allowed: a list of different head numbers/,
      ],
      [
        [...model, ...prompt, "--kind", "mlp", "--layer", "0", "--mode", "mean"],
        /needs a text .* --calibration/,
      ],
      [[...model, ...prompt, "--condition", "{kind: [mlp"], /--condition \{kind: \[mlp: /],
      [[...model, ...prompt, ...layer, "--max-new-tokens", "0"], /--max-new-tokens 0; allowed: 1 to 65536/],
      [
        [...model, ...layer, "--prompts", "/none.txt"],
        /\/none\.txt: the prompts cannot be read: there is no such file/,
      ],
      [[...model, ...prompt, "--kind", "layer", "--layer", "9"], /layer 9 does not exist; allowed: 0 to 3/],
      [[...model, ...prompt, ...layer, "--max-new-tokens", "512"], /do not fit the model's 512 positions/],
      [[...model, ...prompt, ...layer, "--chat-template"], /no chat template; leave --chat-template out/],
    ];
    for (const [args, message] of cases) {
      const ran = await cli(["compare", "-q", "--threads", "1", ...args]);
      expect([ran.exitCode, ran.stderr], args.join(" ")).toEqual([2, expect.stringMatching(message)]);
    }
  });
});
