/** `model.dtype: auto`: resolved at the first load, stored with its reason, and what it became is what is resumed. */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { cli, scratch, standingWorker, sweepFile, table, tinyModel } from "../fixtures/harness.ts";

standingWorker();

it("is what it became, for whoever comes back to the run", { timeout: 240_000 }, async () => {
  const directory = scratch();
  const output = join(directory, "out");
  const config = sweepFile(directory, { model: tinyModel(), output, batches: 1 });
  writeFileSync(config, readFileSync(config, "utf8").replace(", dtype: float32", ""));
  const run = async (...more: string[]) => await cli(["run", "-c", config, "--no-plots", ...more]);
  const first = await run("--set", "model.device=cpu");
  expect(first.exitCode, String(first.stderr)).toBe(0);
  const reason = /model\.dtype auto is float32: on the CPU its weights take \S+ \S+ of \S+ GiB/;
  expect(first.stderr).toMatch(reason);
  const summary = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
  expect(summary.notices).toContainEqual(expect.stringMatching(reason));
  expect(summary.fingerprints["config.model.dtype"]).toBe('"float32"');
  expect(readFileSync(join(output, "config.yaml"), "utf8")).toContain("dtype: float32");

  // Rounding is measured below float32 alone: all that the run is, is what it is with the dtype written.
  const written = join(directory, "written");
  const explicit = ["--set", "model.dtype=float32", "--set", `output.dir=${written}`];
  expect((await run("--set", "model.device=cpu", ...explicit)).exitCode).toBe(0);
  const { fingerprints } = JSON.parse(readFileSync(join(written, "summary.json"), "utf8"));
  expect(summary.fingerprints).toEqual(fingerprints);

  // Written or not, it is the same run, and another one with another dtype.
  for (const more of [[], ["--set", "model.dtype=float32"], ["--set", "model.dtype=auto"]]) {
    const again = await run("--set", "model.device=cpu", ...more);
    expect(again.exitCode, String(again.stderr)).toBe(0);
    expect(again.stderr).toContain("already finished");
  }
  const other = await run("--set", "model.device=cpu", "--set", "model.dtype=bfloat16");
  expect(other.exitCode).toBe(2);
  expect(other.stderr).toMatch(/config\.model\.dtype: "float32" there, "bfloat16" now/);
});

it("goes on with what 0.1.0's default was", { timeout: 240_000 }, async () => {
  const place = scratch();
  cpSync(join(packageRoot(), "test", "fixtures", "runs-0.1.0"), place, { recursive: true });
  const run = join(place, "runs", "bfloat16");
  rmSync(run, { recursive: true });
  cpSync(join(place, "cut", "bfloat16"), run, { recursive: true });
  const file = join(place, "configs", "bfloat16.yaml");
  writeFileSync(file, readFileSync(file, "utf8").replace("dtype: bfloat16, ", ""));
  const resumed = await cli(["run", "-c", file, "--no-plots"], { cwd: place });
  if (resumed.exitCode === 2) {
    // Elsewhere the numerics are others; the dtype is none of what differs.
    expect(resumed.stderr).toContain("belongs to another run");
    expect(resumed.stderr).not.toContain("dtype:");
    return;
  }
  expect(resumed.exitCode, String(resumed.stderr)).toBe(0);
  const summary = JSON.parse(readFileSync(join(run, "summary.json"), "utf8"));
  expect(summary.numerics.dtype).toBe("bfloat16");
  expect(table(run).every(({ status }) => status === "done")).toBe(true);
});
