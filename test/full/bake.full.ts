/** SmolLM2 baked in every way: the directory, read by stock transformers, has the NLL of the run's row. */
import { execFileSync } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { baked, nllOf, sweepNll } from "../fixtures/baking.ts";
import { directionFile, unitVector } from "../fixtures/directions.ts";
import { scratch } from "../fixtures/harness.ts";

const SMOL = "builtin:smollm2-135m";
const D_MODEL = 576;
const EXACT = 1e-6;
const DIRECTED = 1e-5;
const NEW_TOKENS = 50;

const CASES = {
  "heads 3 and 7 of layer 14": {
    flags: ["--kind", "head", "--layer", "14", "--heads", "3", "7"],
    target: "{kind: head, layer: 14, heads: [3, 7]}",
  },
  "a whole MLP": {
    flags: ["--kind", "mlp", "--layer", "5"],
    target: "{kind: mlp, layer: 5}",
  },
  "a skipped layer": {
    flags: ["--kind", "layer", "--layer", "26"],
    target: "{kind: layer, layer: 26}",
  },
  "a pruned layer": {
    flags: ["--kind", "layer", "--layer", "26", "--prune-layers"],
    target: "{kind: layer, layer: 26}",
  },
} as const;

for (const [name, { flags, target }] of Object.entries(CASES)) {
  it(name, async () => {
    const directory = scratch();
    const out = join(directory, "out");
    const { certificate } = await baked(SMOL, flags, out);
    const { nll, blocks } = await sweepNll(directory, SMOL, target, { seqLen: 256, batches: 2 });
    const difference = Math.abs(nllOf(out, blocks) - nll);
    console.log(`${name}: |Δ| of NLL ${difference.toExponential(2)}`, certificate.behaviour);
    expect(difference).toBeLessThan(EXACT);
    if (name === "a pruned layer") expect(generated(out)).toHaveLength(NEW_TOKENS);
  });
}

/** Greedy tokens with a KV cache, which are those without one. */
function generated(model: string): number[] {
  const code = `
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
ids = AutoTokenizer.from_pretrained(sys.argv[1])("No one who had ever seen", return_tensors="pt").input_ids
options = dict(max_new_tokens=${NEW_TOKENS}, min_new_tokens=${NEW_TOKENS}, do_sample=False)
cached, plain = (model.generate(ids, use_cache=cache, **options) for cache in (True, False))
assert torch.equal(cached, plain)
print(json.dumps(cached[0, ids.shape[1]:].tolist()))
`;
  const printed = execFileSync(resolveEnvironment().python, ["-c", code, model]);
  return JSON.parse(printed.toString().trim().split("\n").at(-1) ?? "[]");
}

/** The mean of the stream after layer 14 over the text: nearly all of its length is one direction. */
function dominant(path: string): string {
  const text = readFileSync(join(packageRoot(), "configs", "corpora", "northanger-abbey.txt"), "utf8");
  const code = `
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
ids = AutoTokenizer.from_pretrained(sys.argv[1])(sys.stdin.read(), return_tensors="pt").input_ids[:, :512]
with torch.inference_mode():
    stream = model(ids, output_hidden_states=True).hidden_states[15][0].double().mean(0)
print(json.dumps((stream / stream.norm()).tolist()))
`;
  const { python, home } = resolveEnvironment();
  const model = join(home, "models", "smollm2-135m-instruct");
  const printed = execFileSync(python, ["-c", code, model], { input: text.slice(0, 20_000) });
  return directionFile(path, JSON.parse(printed.toString().trim().split("\n").at(-1) ?? "[]"));
}

for (const name of ["a random direction", "the dominant direction"] as const) {
  it(name, async () => {
    const directory = scratch();
    const file = join(directory, "d.safetensors");
    const direction =
      name === "a random direction" ? directionFile(file, unitVector(D_MODEL)) : dominant(file);
    const out = join(directory, "out");
    const { certificate, notes } = await baked(SMOL, ["--direction", direction, "--op", "project_out"], out);
    expect(notes.join()).toContain("untied");
    const target = `{kind: direction, path: ${direction}, op: project_out}`;
    const { nll, blocks } = await sweepNll(directory, SMOL, target, { seqLen: 256, batches: 2 });
    const difference = Math.abs(nllOf(out, blocks) - nll);
    console.log(`${name}: |Δ| of NLL ${difference.toExponential(2)}`, certificate.behaviour);
    // Of the dominant one, the floor is what rounding does to logits of that size.
    const { floor, largest_logit } = certificate.behaviour;
    expect(difference).toBeLessThan(Math.max(DIRECTED, (floor ?? 0) * largest_logit));
    rmSync(out, { recursive: true });
  });
}
