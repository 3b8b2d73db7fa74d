/** `sparkablate prune` on six layers, beside brute force over every set of up to three. */
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { parse, stringify } from "yaml";
import { sha256 } from "../../src/digest.ts";
import type { Pruned } from "../../src/prune/prune.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { cli, NORTHANGER, standingWorker, tinyModel, until } from "../fixtures/harness.ts";

standingWorker();

const LAYERS = 6;
const desk = mkdtempSync(join(tmpdir(), "sparkablate-prune-"));
afterAll(() => rmSync(desk, { recursive: true }));
const model = tinyModel("--layers", String(LAYERS));
// Beginnings of two novels: what is tokenised anew for every run is short.
const texts = ["northanger-abbey", "sense-and-sensibility"].map((name) => {
  const file = join(desk, `${name}.txt`);
  writeFileSync(file, readFileSync(NORTHANGER.replace("northanger-abbey", name), "utf8").slice(0, 40_000));
  return file;
});
const out = join(desk, "pruned");
const line = (directory: string, ...more: string[]) => [
  ...["prune", "-m", model, "--text", ...texts, "--seq-len", "32", "--blocks", "16", "--held-out", "16"],
  ...["--dtype", "float32", "--out", directory, ...more],
];
const path = (directory: string): Pruned => JSON.parse(readFileSync(join(directory, "path.json"), "utf8"));
const weights = (directory: string) => sha256(readFileSync(join(directory, "model", "model.safetensors")));

/** Another run on the blocks that the search chose with. */
async function measured(name: string, ablation: Record<string, unknown>) {
  const config = parse(readFileSync(join(out, "steps", "001", "config.yaml"), "utf8"));
  const dir = join(desk, name);
  writeFileSync(`${dir}.yaml`, stringify({ ...config, ablation, stop: null, output: { dir } }));
  const { exitCode, stderr } = await cli(["run", "-c", `${dir}.yaml`, "--no-plots", "-q"]);
  expect(exitCode, String(stderr)).toBe(0);
  return readRun(dir).rows.slice(1);
}

describe("a search for three layers of six", { timeout: 600_000 }, () => {
  it("writes a certified checkpoint of the best sets it found, and goes on where it was killed", async () => {
    const first = await cli(line(out, "--remove", "3", "--json"));
    expect(first.exitCode, String(first.stderr)).toBe(0);
    const found: Pruned = JSON.parse(String(first.stdout));
    expect(found).toEqual(path(out));
    expect(found).toMatchObject({ chosen: 3, reached: true, texts });
    expect(found.steps.map(({ removed }) => removed.length)).toEqual([1, 2, 3]);
    for (const { held_out } of found.steps) expect(held_out.map(({ blocks }) => blocks)).toEqual([16, 16]);
    const { num_hidden_layers } = JSON.parse(readFileSync(join(out, "model", "config.json"), "utf8"));
    expect(num_hidden_layers).toBe(LAYERS - 3);

    const again = join(desk, "killed");
    const killed = cli(line(again, "--remove", "3"));
    await until(() => existsSync(join(again, "steps", "002")), 120, "the second step begins");
    killed.kill("SIGKILL");
    expect((await killed).signal).toBe("SIGKILL");
    expect((await cli(line(again, "--remove", "3"))).exitCode).toBe(0);
    expect({ ...path(again), checkpoint: null }).toEqual({ ...found, checkpoint: null });
    expect(weights(again)).toBe(weights(out));
  });

  it("is at least as good as plain greedy in every size, and its values are those of the joint conditions", async () => {
    const all = Array.from({ length: 2 ** LAYERS }, (_, bits) =>
      Array.from({ length: LAYERS }, (_, layer) => layer).filter((layer) => bits & (1 << layer)),
    ).filter(({ length }) => length >= 1 && length <= 3);
    const id = (set: readonly number[]) => set.map((layer) => `L${layer}.layer.skip`).join(" + ");
    const rows = await measured("every-set", { sweep: "custom", targets: all.map(id) });
    const value = new Map(rows.map(({ delta_nll }, index) => [String(all[index]), delta_nll as number]));
    let greedy: number[] = [];
    for (const { removed, selection_delta_nll } of path(out).steps) {
      const set = removed.map((one) => Number(/^L(\d+)\.layer\.skip$/.exec(one)?.[1]));
      expect(selection_delta_nll).toBe(value.get(String(set)));
      const larger = all.filter(
        (each) => each.length === set.length && greedy.every((layer) => each.includes(layer)),
      );
      greedy = larger.reduce((least, each) => (worth(each) < worth(least) ? each : least));
      expect(selection_delta_nll).toBeLessThanOrEqual(worth(greedy));
    }
    function worth(set: readonly number[]): number {
      return value.get(String(set)) as number;
    }
  });

  it("races in its first step as `sweep: layers` measures", async () => {
    const sweep = new Map((await measured("layers", { sweep: "layers" })).map((row) => [row.condition, row]));
    for (const row of readRun(join(out, "steps", "001")).rows.slice(1))
      if (row.blocks === 32) expect(row.nll).toBe(sweep.get(row.condition)?.nll);
  });

  it("refuses what is another search, and tests another target on blocks that nobody has seen", async () => {
    const other = await cli(line(out, "--remove", "3", "--seed", "1"));
    expect([other.exitCode, other.stderr]).toEqual([2, expect.stringContaining("seed: 0 there, 1 now")]);
    const looked = await cli(line(out, "--remove", "2"));
    expect([looked.exitCode, looked.stderr]).toEqual([2, expect.stringContaining("--fresh-holdout")]);
    // A model has one layer at least: the best found is written, and said not to be what was asked for.
    const fresh = await cli(line(out, "--remove", "9", "--fresh-holdout"));
    expect(fresh.exitCode, String(fresh.stderr)).toBe(1);
    expect(path(out)).toMatchObject({ chosen: LAYERS - 1, reached: false });
    const blocks = (name: string) => readFileSync(join(out, "held-out", name, "config.yaml"), "utf8");
    expect(blocks("2-1")).toContain("skip_batches: 8");
    expect(blocks("1-1")).toContain("skip_batches: 4");
  });
});

describe("a key/value group of every layer", { timeout: 600_000 }, () => {
  it("is the least harmful one of each, and is cut out of the checkpoint", async () => {
    const directory = join(desk, "groups");
    const args = line(directory, "--unit", "kv_groups", "--remove", "1", "--json");
    const { exitCode, stdout, stderr } = await cli(args.map((arg) => (arg === model ? tinyModel() : arg)));
    expect(exitCode, String(stderr)).toBe(0);
    const { steps, checkpoint }: Pruned = JSON.parse(String(stdout));
    const { rows } = readRun(join(directory, "steps", "001"));
    const layers = Map.groupBy(rows.slice(1), ({ interventions: [one] }) => (one as { layer: number }).layer);
    const least = [...layers.values()].map((groups) =>
      groups.reduce((low, row) => ((row.delta_nll as number) < (low.delta_nll as number) ? row : low)),
    );
    expect(steps.map(({ removed }) => removed)).toEqual([least.map(({ condition }) => condition)]);
    const configuration = (path: string) => JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
    const [before, after] = [configuration(tinyModel()), configuration(join(directory, "model"))];
    expect(after.num_key_value_heads).toBe(before.num_key_value_heads - 1);
    expect(checkpoint?.certificate.behaviour.kl).toBeLessThan(1e-6);
  });
});

describe("a line that asks for no search", () => {
  it.each([
    [["--remove", "3", "--max-delta-nll", "0.1"], "--max-delta-nll cannot be combined with --remove"],
    [[], "say how much to remove"],
    [["--remove", "half"], "--remove half: a number is wanted"],
    [["--remove", "1", "--blocks", "6"], "blocks is 6, no multiple of 4"],
    [["--remove", "1.5"], "remove is 1.5; allowed: whole numbers from 1"],
    [["--remove", "1", "--unit", "heads"], "Allowed choices are layers, kv_groups"],
  ])("%j", async (more, said) => {
    const { exitCode, stderr } = await cli(line(join(desk, "none"), ...more));
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining(said)]);
  });
});
