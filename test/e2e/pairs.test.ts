/** Redundancy that was planted: invisible one head at a time, found by a sweep of pairs. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { rankInteractions } from "../../src/results/ranking.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { cli, NORTHANGER, scratch, standingWorker, sweepFile, tinyModel } from "../fixtures/harness.ts";

standingWorker();

const LAYER = 3;
const name = (...heads: number[]): string => `L${LAYER}.head[${heads}].zero`;

it("finds two heads that are copies of each other, and says where a run of pairs comes from", {
  timeout: 600_000,
}, async () => {
  const directory = scratch();
  const model = join(directory, "model");
  const script = join(packageRoot(), "test", "fixtures", "redundant_model.py");
  execFileSync(resolveEnvironment().python, [script, tinyModel(), NORTHANGER, model]);
  const heads = join(directory, "heads");
  const pairs = join(directory, "pairs");
  const options = { model, batches: 8 };
  const ablation = `sweep: pairs\n  from: ${heads}\n  top: 4`;

  // Stopped before it was finished, a ranking is not one yet.
  const run = (...args: string[]) => cli(["run", "-c", join(directory, "sweep.yaml"), "-q", ...args]);
  sweepFile(directory, { ...options, output: pairs, ablation });
  const early = await run("--no-plots");
  expect([early.exitCode, early.stderr]).toEqual([2, expect.stringContaining(`${heads} does not exist`)]);

  sweepFile(directory, { ...options, output: heads, ablation: `sweep: heads\n  layers: [${LAYER}]` });
  const first = await run("--no-plots");
  expect(first.exitCode, String(first.stderr)).toBe(0);
  sweepFile(directory, { ...options, output: pairs, ablation });
  const second = await run();
  expect(second.exitCode, String(second.stderr)).toBe(0);

  const { rows } = readRun(pairs);
  expect(rows).toHaveLength(1 + 4 + 6);
  const effect = (id: string) => rows.find((row) => row.condition === id)?.delta_nll ?? Number.NaN;
  for (const head of [0, 1]) expect(Math.abs(effect(name(head)))).toBeLessThan(0.05);
  expect(effect(name(0, 1))).toBeGreaterThan(1);

  const [top, ...others] = rankInteractions(rows);
  expect(top?.condition).toBe(name(0, 1));
  expect(top?.interaction).toMatchObject({ parts: [name(0), name(1)], distinguishable: true, blocks: 32 });
  expect(top?.interaction.ci95?.[0]).toBeGreaterThan(1);
  for (const { interaction } of others) expect(Math.abs(interaction.effect ?? 1)).toBeLessThan(0.1);
  for (const file of ["plots/interactions.png", "plots/ranking.png", "report.html"])
    expect(existsSync(join(pairs, file)), file).toBe(true);
  expect(readFileSync(join(pairs, "results.jsonl"), "utf8")).toContain('"interaction_ci95":[');

  // Singles are the same measurement in both runs; the same command again computes nothing.
  const before = readRun(heads).rows.find((row) => row.condition === name(0));
  expect(effect(name(0))).toBe(before?.delta_nll);
  const again = await run("--no-plots");
  expect(again.exitCode, String(again.stderr)).toBe(0);

  // Another content of the same name is another run.
  sweepFile(directory, { ...options, output: heads, ablation: "sweep: heads\n  layers: [2]" });
  expect((await run("--no-plots", "--fresh")).exitCode).toBe(0);
  sweepFile(directory, { ...options, output: pairs, ablation });
  const other = await run("--no-plots");
  expect([other.exitCode, other.stderr]).toEqual([2, expect.stringContaining("conditions: ")]);
});
