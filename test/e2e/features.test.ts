/** src/protocol/features.ts: every two features work together, or are refused with their sentence before anything is loaded. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stringify } from "yaml";
import { loadConfig, type RunConfig } from "../../src/config/load.ts";
import { Controller } from "../../src/controller.ts";
import { type PromptSet, readPrompts } from "../../src/directions/find.ts";
import { SparkablateError } from "../../src/errors.ts";
import {
  FEATURE_NAMES,
  FEATURES,
  type Feature,
  meeting,
  REFUSALS,
  refusalOf,
} from "../../src/protocol/features.ts";
import { confirmation } from "../../src/run/confirm.ts";
import { readPacked, readRun } from "../../src/store/run-directory.ts";
import { directionFile, unitVector } from "../fixtures/directions.ts";
import { NORTHANGER, table, tinyModel } from "../fixtures/harness.ts";
import { startRayWorker } from "../fixtures/ray.ts";

type Together = ReadonlySet<Feature>;

const MODES = ["mean", "resample", "patch"] as const;
const NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal"];
const SENTENCES = ["told the truth", "went home early", "sang a song"];
const ITEMS = NAMES.flatMap((name) => SENTENCES.map((rest) => ({ name, rest })));

const shared = mkdtempSync(join(tmpdir(), "sparkablate-test-"));
const lines = (name: string, of: readonly object[]): string => {
  const path = join(shared, name);
  writeFileSync(path, of.map((one) => `${JSON.stringify(one)}\n`).join(""));
  return path;
};
const task = lines(
  "task.jsonl",
  ITEMS.map(({ name, rest }) => ({
    prompt: `They say that ${name} ${rest}, and`,
    answer: " he",
    wrong: " it",
  })),
);
const donors = lines(
  "donors.jsonl",
  ITEMS.map(({ name, rest }) => ({ prompt: `They say that ${[...name].reverse().join("")} ${rest}, and` })),
);
const direction = directionFile(join(shared, "v.safetensors"), unitVector(64));

let ray: Awaited<ReturnType<typeof startRayWorker>>;
let workers: Record<"local" | "ray", Controller>;

beforeAll(async () => {
  ray = await startRayWorker(shared, ["--actors", "1"], shared);
  workers = { local: new Controller(), ray: new Controller({ worker: ray.address }) };
}, 240_000);

afterAll(async () => {
  await workers?.local.close();
  await workers?.ray.close();
  await ray?.end();
  rmSync(shared, { recursive: true, force: true });
}, 120_000);

/** The sweep that a set implies where it names none. */
const sweepOf = (features: Together): Feature =>
  FEATURE_NAMES.find((name) => FEATURES[name].part === "sweep" && features.has(name)) ?? "targets";

let count = 0;

/** The directory of a run of single blocks whose edits have these features. */
async function earlierRun(features: Together): Promise<string> {
  const edits = [...features].filter((name) =>
    ["sample", "metric", "mode", "positions", "machine"].includes(FEATURES[name].part),
  );
  const config = await configOf(new Set([...edits, "sites" as const]));
  await run(workers.local, config);
  return config.output.dir;
}

/** A config that asks for these features and, where it has to, for what they need. */
async function configOf(features: Together): Promise<RunConfig> {
  const has = (name: Feature): boolean => features.has(name);
  const output = join(shared, `run-${count++}`);
  const sweep = sweepOf(features);
  const modes = MODES.filter(has);
  const mode = has("several_modes")
    ? ["zero", ...(modes.length > 0 ? modes : ["mean"])]
    : (modes[0] ?? "zero");
  const isTask = has("task") || (!has("text") && (has("patch") || has("logit_diff")));
  const positions = has("not_first") ? "not_first" : "all";
  const custom = {
    sweep: "custom",
    targets: [
      { kind: "head", layer: 0, heads: [1], mode },
      ...(modes.length > 1 && typeof mode === "string"
        ? modes.slice(1).map((one, index) => ({ kind: "attn", layer: 1 + index, mode: one }))
        : []),
      { kind: "neuron", layer: 3, neurons: [0, 5], mode },
    ],
    ...(sweep === "directions" && { directions: [{ path: direction, op: "project_out", layers: [1, 2] }] }),
    positions,
  };
  const ablations: Partial<Record<Feature, object>> = {
    sites: { sweep: "attn", mode, positions },
    layers: { sweep: "layers", mode, positions },
    pairs: { sweep: "pairs", top: 2, ...(sweep === "pairs" && { from: await earlierRun(features) }) },
    targets: custom,
    directions: custom,
  };
  const ablation = {
    ...ablations[sweep],
    ...(has("given") && { given: ["L2.mlp.zero"] }),
    ...(modes.includes("patch") && { source: donors }),
  };
  const path = join(shared, `run-${count}.yaml`);
  const metrics = [...(has("agreement") ? ["kl", "top1"] : []), ...(has("logit_diff") ? ["logit_diff"] : [])];
  writeFileSync(
    path,
    stringify({
      model: {
        name: tinyModel("--bias", ...(has("quantised") ? ["--fp8"] : [])),
        dtype: "float32",
        threads: 1,
        device_map: has("device_map") ? "auto" : null,
      },
      eval: {
        ...(isTask ? { task } : { dataset: NORTHANGER }),
        seq_len: 64,
        batch_size: 4,
        max_batches: 2,
        calibration_batches: 1,
        // A comparison has no text of its own to take means over.
        calibration: has("compare") ? NORTHANGER : null,
        metrics,
      },
      ablation,
      ...(has("stop") && { stop: { top: 1 } }),
      output: { dir: output },
    }),
  );
  loads.length = 0;
  return loadConfig(path);
}

const loads: string[] = [];
const on = (event: { readonly type: string }): void =>
  void (event.type === "loaded" && loads.push(event.type));

async function run(controller: Controller, config: RunConfig): Promise<void> {
  for await (const _row of controller.run(config, { on }));
  for (const { condition, error } of readRun(config.output.dir).rows) expect(error, condition).toBeNull();
}

/** Does what the features ask for. */
async function work(features: Together): Promise<void> {
  const config = await configOf(features);
  const controller = workers[features.has("ray") ? "ray" : "local"];
  const command = FEATURE_NAMES.find((name) => FEATURES[name].part === "command" && features.has(name));
  if (command === "compare") {
    const { prompts } = await controller.compare(config, { prompts: ["Catherine"], max_new_tokens: 4, on });
    expect(prompts[0]?.texts.map(({ error }) => error)).toEqual(prompts[0]?.texts.map(() => null));
  } else if (command === "bake") {
    const { certificate } = await controller.bake(config, { out: `${config.output.dir}-baked`, on });
    expect(certificate.edit.edited).toBeGreaterThan(0);
  } else if (command === "find") {
    const [positive, negative] = ["?", "."].map((ending) => {
      const path = join(shared, `prompts${ending}txt`);
      writeFileSync(path, ITEMS.map(({ name, rest }) => `${name} ${rest}${ending}\n`).join(""));
      return readPrompts(path);
    }) as [PromptSet, PromptSet];
    const found = await controller.direction(config.model, { positive, negative, on });
    expect(found.table.candidates.length).toBeGreaterThan(0);
  } else {
    await run(controller, config);
    const { dir } = config.output;
    if (features.has("ray") && !features.has("stop")) {
      const here = { ...config, output: { dir: `${dir}-here` } };
      await run(workers.local, here);
      expect(table(dir)).toEqual(table(here.output.dir));
    }
    if (command === "confirm") await run(controller, confirmation(config, readPacked(dir), 2));
    if (command === "tokens") {
      const row = readRun(dir).rows.find(({ condition }) => condition !== "baseline");
      await controller.keepTokens(config, row?.condition ?? "", { on });
    }
  }
}

/** Two are enough for a condition each; of a sweep, and of a bake, every condition has the one mode. */
const fits = (features: Together): boolean =>
  features.has("several_modes") ||
  (sweepOf(features) !== "sites" && sweepOf(features) !== "pairs") ||
  MODES.filter((mode) => features.has(mode)).length < 2;

const pairs = FEATURE_NAMES.flatMap((one, index) =>
  FEATURE_NAMES.slice(index + 1).map((other): [Feature, Feature] => [one, other]),
);
const named = (features: Iterable<Feature>): string => [...features].join(", ");

/** Few sets of features that hold every two that work together: from the first two that no set holds, all that fits. */
function coverings(): Together[] {
  const open = new Set(pairs.filter(([one, other]) => meeting(one, other) === "works").map(named));
  const found: Together[] = [];
  for (const first of open) {
    const set = new Set(pairs.find((pair) => named(pair) === first));
    for (const more of FEATURE_NAMES) {
      const grown = new Set(FEATURE_NAMES.filter((name) => set.has(name) || name === more));
      const isGain = [...set].some((name) =>
        open.has(named(FEATURE_NAMES.filter((one) => one === name || one === more))),
      );
      if (isGain && fits(grown) && [...set].every((name) => name === more || meeting(name, more) === "works"))
        set.add(more);
    }
    const held = FEATURE_NAMES.filter((name) => set.has(name));
    for (const [index, one] of held.entries())
      for (const other of held.slice(index + 1)) open.delete(named([one, other]));
    found.push(new Set(held));
  }
  return found;
}

describe("every two that work", () => {
  it.each(coverings().map((features) => [named(features), features] as const))(
    "%s",
    { timeout: 600_000 },
    (_, features) => work(features),
  );
});

describe("every two that are refused", () => {
  it.each(REFUSALS.map(({ features }) => [named(features), features] as const))(
    "%s",
    async (_, [one, other]) => {
      const { code, sentence } = refusalOf(one, other) ?? {};
      const error = await work(new Set([one, other])).then(
        () => null,
        (thrown: unknown) => thrown,
      );
      expect(error).toBeInstanceOf(SparkablateError);
      expect((error as SparkablateError).code).toBe(code);
      expect((error as SparkablateError).message).toContain(sentence);
      // What a run did not keep is known when it is over.
      if (other !== "confirm") expect(loads).toEqual([]);
    },
  );
});

it("the table names no pair twice, and what is refused could be asked for", () => {
  expect(new Set(REFUSALS.map(({ features }) => named([...features].sort()))).size).toBe(REFUSALS.length);
  for (const { features } of REFUSALS) expect(new Set(features).size).toBe(2);
});
