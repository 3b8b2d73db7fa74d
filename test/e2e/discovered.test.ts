/** A model that no row of the architecture table describes: found, proved, measured, marked everywhere, baked. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { cli, scratch, standingWorker, sweepFile } from "../fixtures/harness.ts";

standingWorker();

it("is inspected, measured, reported and baked, and never without the word", {
  timeout: 300_000,
}, async () => {
  const directory = scratch();
  const model = join(directory, "model");
  const output = join(directory, "out");
  const script = join(packageRoot(), "test", "fixtures", "discovered_model.py");
  const type = String(execFileSync(resolveEnvironment().python, [script, model])).trim();

  const inspected = await cli(["inspect", "-m", model]);
  expect(inspected.exitCode, String(inspected.stderr)).toBe(0);
  expect(inspected.stdout).toMatch(
    new RegExp(`discovered, not reviewed; as a row of the table:\nArchitecture\\(\n    \\('${type}',\\),`),
  );
  const json = JSON.parse(String((await cli(["inspect", "-m", model, "--json"])).stdout));
  expect(json.model_map.discovered).toMatch(/^Architecture\(/);

  const run = await cli(["run", "-c", sweepFile(directory, { model, output, ablation: "sweep: heads" })]);
  expect(run.exitCode, String(run.stderr)).toBe(0);
  expect(run.stderr).toContain(`${type} is discovered, not reviewed`);
  expect(run.stdout).toContain("The architecture is discovered, not reviewed");
  const { rows, facts } = readRun(output);
  expect(rows.length).toBeGreaterThan(4);
  expect(facts.discovered).toBe(json.model_map.discovered);
  const page = readFileSync(join(output, "report.html"), "utf8");
  expect(page).toContain("discovered, not reviewed");
  expect(page).toContain("located by automatic discovery (not reviewed against its source)");

  const condition = rows.find(({ kind }) => kind === "head");
  const [head] = condition?.heads ?? [];
  const flags = [
    "--threads",
    "1",
    "--kind",
    "head",
    "--layer",
    String(condition?.layer),
    "--heads",
    String(head),
  ];
  const baked = await cli(["bake", "-m", model, ...flags, "--out", join(directory, "baked")]);
  expect(baked.exitCode, String(baked.stderr)).toBe(0);
  expect(baked.stdout).toContain("certified with stock transformers: 1 tensors edited");

  // What only the loaded model shows is not to be had of its configuration.
  const meta = await cli(["inspect", "-m", model, "--meta"]);
  expect(meta.exitCode).toBe(2);
  expect(meta.stderr).toMatch(/is looked for on the loaded model/);
});

it("inspect --architectures lists every model type and its class", async () => {
  const listed = await cli(["inspect", "--architectures"]);
  expect(listed.exitCode, String(listed.stderr)).toBe(0);
  const [head = "", , ...lines] = String(listed.stdout).trimEnd().split("\n");
  const [, count] = /^(\d+) causal model types of transformers [\d.]+: .*\d+ reviewed/.exec(head) ?? [];
  expect(lines).toHaveLength(Number(count));
  expect(listed.stdout).toMatch(/^llama +reviewed +head, kv_group, attn, neuron, mlp, layer, direction$/m);
  const { types } = JSON.parse(String((await cli(["inspect", "--architectures", "--json"])).stdout));
  expect(types.llama.class).toBe("reviewed");
  const neither = await cli(["inspect"]);
  expect([neither.exitCode, neither.stderr]).toEqual([
    2,
    expect.stringContaining("give -m MODEL, or --architectures"),
  ]);
});
