/** `ablation.given`: what is measured on top of edits is the joint condition, to the bit, wherever a run goes from there. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { Controller, loadConfig, type RunConfig } from "../../src/index.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { RunStore } from "../../src/store/sqlite.ts";
import { nllOf } from "../fixtures/baking.ts";
import { directionFile, unitVector } from "../fixtures/directions.ts";
import {
  cli,
  NORTHANGER,
  scratch,
  standingWorker,
  sweepFile,
  table,
  tinyModel,
} from "../fixtures/harness.ts";

standingWorker();

type Sums = Readonly<Record<string, string>>;

/** Condition and metric → its sums by block, to the last bit. */
const sumsOf = (directory: string): Sums =>
  RunStore.reading(directory, (store) => {
    const ids = [...store.conditions()].map(({ id }) => id);
    const found: Record<string, string[]> = {};
    store.forEachSum((condition, block, metric, sum) => {
      const key = `${ids[condition]} ${metric}`;
      found[key] ??= [];
      found[key][block] = String(sum);
    });
    return Object.fromEntries(Object.entries(found).map(([key, sums]) => [key, sums.join()]));
  });

const run = async (controller: Controller, config: RunConfig): Promise<void> => {
  for await (const _row of controller.run(config));
};

it("is the joint condition bit for bit, and every command that reads the run knows of it", {
  timeout: 600_000,
}, async () => {
  const directory = scratch();
  const model = tinyModel("--bias");
  const [first, second] = [1, 2].map((seed) =>
    directionFile(join(directory, `d${seed}.safetensors`), unitVector(64, seed)),
  );
  const direct = (path = "") => `{kind: direction, path: ${path}, op: project_out, layers: [1, 2]}`;
  /** Given, conditions, and what they are together. */
  const given = ["L0.head[1].zero", "L2.mlp.mean", direct(first)];
  const cases: [string, string][] = [
    ["L0.head[2].zero", `L0.head[1,2].zero + L2.mlp.mean`], // heads of one layer
    ["L1.mlp.mean", `L0.head[1].zero + L1.mlp.mean + L2.mlp.mean`], // mean on mean
    ["L0.layer.skip", `L0.layer.skip + L2.mlp.mean`], // a layer over a head
    ["L0.attn.resample", `L0.attn.resample + L2.mlp.mean`],
    ["L3.layer.skip", `L0.head[1].zero + L2.mlp.mean + L3.layer.skip`],
  ];
  const config = (name: string, ablation: string) => {
    sweepFile(directory, { model, output: join(directory, name), ablation });
    const path = join(directory, "sweep.yaml");
    const written = readFileSync(path, "utf8").replace("batch_size: 4", "batch_size: 4, metrics: [kl]");
    writeFileSync(path, written);
    return loadConfig(path);
  };
  const list = (entries: readonly string[]) => `[${entries.join(", ")}]`;
  const quoted = (ids: readonly string[]) => ids.map((id) => (id.startsWith("{") ? id : `"${id}"`));
  const on = config(
    "on",
    `sweep: custom\n  given: ${list(quoted(given))}\n  targets: ${list([...quoted(cases.map(([id]) => id)), direct(second)])}`,
  );
  // The joint condition of a text is one; a direction stands beside it in a list.
  const specs = (id: string) => id.split(" + ").map((one) => (one.startsWith("{") ? one : specOf(one)));
  const joint = config(
    "joint",
    `sweep: custom\n  targets: ${list(
      [
        given.join(" + "),
        ...cases.map(([, id]) => `${id} + ${direct(first)}`),
        `${given.join(" + ")} + ${direct(second)}`,
      ].map((id) => list(specs(id))),
    )}`,
  );
  const controller = new Controller();
  // Cut in the middle and gone on with: the uninterrupted run's sums.
  for await (const row of controller.run(on)) if (row.condition !== "baseline") break;
  await run(controller, on);
  await run(controller, joint);
  const [mine, theirs] = [sumsOf(join(directory, "on")), sumsOf(join(directory, "joint"))];
  const ids = RunStore.reading(join(directory, "joint"), (store) =>
    [...store.conditions()].map(({ id }) => id),
  );
  const own = RunStore.reading(join(directory, "on"), (store) => [...store.conditions()].map(({ id }) => id));
  expect(own).toHaveLength(1 + cases.length + 1);
  for (const [index, id] of own.entries())
    expect(mine[`${id} nll`], id).toBe(theirs[`${ids[index + 1]} nll`]);
  expect(mine["baseline nll"]).not.toBe(theirs["baseline nll"]);
  expect(new Set(mine["baseline kl"]?.split(","))).toEqual(new Set(["0"]));

  // Rows, table, summary, words and page say it; a run without has no such column.
  const name = String(RunStore.reading(join(directory, "on"), (store) => store.run()?.identity.given));
  expect(name).toMatch(
    /^L0\.head\[1\]\.zero \+ L2\.mlp\.mean \+ dir\[.{8}\]\.project_out\(layers=\[1,2\]\)$/,
  );
  for (const row of table(join(directory, "on"))) expect(row.given).toBe(name);
  expect(table(join(directory, "joint"))[0]).not.toHaveProperty("given");
  expect(readRun(join(directory, "joint")).facts).not.toHaveProperty("given");
  expect(RunStore.reading(join(directory, "joint"), (store) => store.run()?.identity)).not.toHaveProperty(
    "given",
  );
  const shown = await cli(["report", join(directory, "on")]);
  expect(shown.stdout).toContain(`Given ${name}:`);
  expect(readFileSync(join(directory, "on", "report.html"), "utf8")).toContain(
    "measured with L0.head[1].zero",
  );

  // Beside a run on top of other edits no effect stands without a mark.
  config("plain", `sweep: custom\n  targets: ${list(quoted(cases.map(([id]) => id)))}`);
  await run(controller, loadConfig(join(directory, "sweep.yaml")));
  const dirs = [join(directory, "on"), join(directory, "plain")];
  const both = await cli(["report", ...dirs, "--format", "json", "--no-plots"]);
  const [comparison] = JSON.parse(String(both.stdout)).comparisons;
  expect(comparison.differing[0]).toEqual({ key: "given", values: [name, "absent"] });
  for (const pair of comparison.pairs) expect(pair.flags).toContain("measured on top of other given edits");
  expect((await cli(["report", ...dirs, "--no-plots"])).stdout).toMatch(/other given/);

  await controller.close();

  // Token by token, on top of the same.
  const tokens = ["--tokens", "L0.layer.skip", "--json", "--no-plots"];
  const kept = await cli(["report", join(directory, "on"), ...tokens]);
  expect(kept.exitCode, String(kept.stderr)).toBe(0);
  const effect = readRun(join(directory, "on")).rows.find(({ condition }) => condition === "L0.layer.skip");
  expect(JSON.parse(String(kept.stdout)).delta_nll).toBeCloseTo(effect?.delta_nll ?? Number.NaN, 12);
});

const specOf = (id: string): string => {
  const [, layer, kind, parts, mode] = /^L(\d)\.(\w+)(?:\[([\d,]+)\])?\.(\w+)$/.exec(id) ?? [];
  return `{kind: ${kind}, layer: ${layer}, ${parts ? `heads: [${parts}], ` : ""}mode: ${mode}}`;
};

it("bakes a row with what it was given", { timeout: 300_000 }, async () => {
  const directory = scratch();
  const output = join(directory, "swept");
  const flags = ["--sweep", "mlp", "--layers", "0..2", "--given", "L1.mlp.zero + L0.head[3].zero"];
  const sets = ["eval.seq_len=32", "eval.max_batches=4", "model.threads=1"].flatMap((one) => ["--set", one]);
  const args = ["-m", tinyModel(), "--dtype", "float32", "--text", NORTHANGER, "-o", output, ...sets];
  const ran = await cli(["run", ...args, ...flags, "--no-plots"]);
  expect(ran.exitCode, String(ran.stderr)).toBe(0);
  expect(ran.stderr).toContain("leaves out L1.mlp.zero: ablation.given edits these already");
  const rows = readRun(output).rows;
  expect(rows.map(({ condition }) => condition)).toEqual(["baseline", "L0.mlp.zero", "L2.mlp.zero"]);

  // Confirmed on other blocks, on top of the same.
  const confirmed = await cli(["report", output, "--confirm", "1", "-q"]);
  expect(confirmed.exitCode, String(confirmed.stderr)).toBe(0);
  for (const row of readRun(`${output}-confirm-1`).rows)
    expect(row.given).toBe("L0.head[3].zero + L1.mlp.zero");

  const out = join(directory, "out");
  const row = ["--condition", "L2.mlp.zero", "--from", output];
  const bake = await cli(["bake", "-m", tinyModel(), "--threads", "1", ...row, "--out", out, "--json"]);
  expect(bake.exitCode, String(bake.stderr)).toBe(0);
  expect(bake.stderr).toContain("baked together with what is given");
  const baked = JSON.parse(String(bake.stdout));
  expect(baked.condition).toBe("L0.head[3].zero + L1.mlp.zero + L2.mlp.zero");
  expect(baked.certificate.behaviour.logit_difference).toBe(0);
  const positions = RunStore.reading(output, (store) =>
    store.blocks("evaluation").map(({ position }) => position),
  );
  expect(Math.abs(nllOf(out, { seqLen: 32, positions }) - (rows[2]?.nll ?? 0))).toBeLessThan(1e-6);

  const stranger = ["--condition", "L3.mlp.zero", "--from", output];
  const refused = await cli(["bake", "-m", tinyModel(), ...stranger, "--out", join(directory, "no")]);
  expect([refused.exitCode, refused.stderr]).toEqual([
    2,
    expect.stringContaining("but not every --condition is a row of it"),
  ]);
  const compared = await cli(["compare", "-m", tinyModel(), "--prompt", "a", ...row]);
  expect([compared.exitCode, compared.stderr]).toEqual([
    2,
    expect.stringContaining("--from: compare continues the unedited model's texts"),
  ]);

  // Other edits below it are another run, and edits that fail alone are refused before anything is stored.
  const other = await cli(["run", ...args, "--sweep", "mlp", "--layers", "0..2"]);
  expect([other.exitCode, other.stderr]).toEqual([2, expect.stringMatching(/given: .* there, absent now/)]);
  const huge = directionFile(join(directory, "huge.safetensors"), unitVector(64), { norm: "3e38" });
  const failing = `sweep: mlp\n  given: [{kind: direction, path: ${huge}, op: add, layers: [1], coefficient: 1000}]`;
  sweepFile(directory, { model: tinyModel(), output: join(directory, "failing"), ablation: failing });
  const alone = await cli(["run", "-c", join(directory, "sweep.yaml")]);
  expect([alone.exitCode, alone.stderr]).toEqual([
    expect.toSatisfy((code) => code !== 0),
    expect.stringMatching(/sweep\.yaml:\d+: ablation\.given: dir.* fails alone/),
  ]);
});
