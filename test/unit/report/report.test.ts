import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, describe, expect, test } from "vitest";
import { buildRows } from "../../../src/results/tabulate.ts";
import { facts, measured, skip, sweep } from "../planted.ts";
import { plantRun } from "../planted-run.ts";

const MAIN = fileURLToPath(new URL("../../../src/cli/main.ts", import.meta.url));
const report = (...args: string[]) =>
  execa(process.execPath, [MAIN, "report", ...args], { reject: false, env: { NO_COLOR: "1" } });

const { baseline, conditions } = sweep(
  [
    { of: skip(0), mean: 0.5, sd: 0.1 },
    { of: skip(1), mean: 0.7, sd: 0.1 },
  ],
  32,
);
const failed = measured(skip(2), [], { error: { code: "hook_failed", message: "boom" } });
const scratch = mkdtempSync(join(tmpdir(), "report-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const directory = join(scratch, "run");
const planned = facts({ planned_conditions: 3, finished: null });
plantRun(directory, planned, baseline, [...conditions, failed]);

describe("sparkablate report", () => {
  test("table on stdout, plots in the directory, their paths on stderr", async () => {
    const { exitCode, stdout, stderr } = await report(directory);
    expect({ exitCode, stderr }).toEqual({
      exitCode: 0,
      stderr: `plot: ${join(directory, "plots", "layers.png")}\npage: ${join(directory, "report.html")}`,
    });
    expect(stdout.indexOf("L1.layer.skip")).toBeLessThan(stdout.indexOf("L0.layer.skip"));
    expect(stdout).toContain("hook_failed");
    expect(readdirSync(join(directory, "plots"))).toEqual(["layers.png"]);
    expect(
      readFileSync(join(directory, "plots", "layers.png"))
        .subarray(1, 4)
        .toString(),
    ).toBe("PNG");
  });

  test("--json carries the rows that the statistics give, to the last digit", async () => {
    const { stdout } = await report(directory, "--json", "--no-plots");
    const rows = buildRows(baseline, conditions, planned.statistics);
    const found = JSON.parse(stdout).rows.find(
      ({ condition }: { condition: string }) => condition === "L0.layer.skip",
    );
    expect(found).toMatchObject({ delta_nll: rows[1]?.delta_nll, se: rows[1]?.se, q: rows[1]?.q });
  });

  test("--no-plots draws nothing; -q says nothing", async () => {
    const other = join(scratch, "other");
    plantRun(other, planned, baseline, conditions);
    expect(await report(other, "--no-plots", "-q")).toMatchObject({ exitCode: 0, stdout: "", stderr: "" });
    expect(readdirSync(other).filter((name) => !name.startsWith("results"))).toEqual([]);
  });

  test("a directory that is no run, and a wrong option, end with 2", async () => {
    const missing = await report(join(directory, "nowhere"));
    expect(missing.exitCode).toBe(2);
    expect(missing.stderr).toContain(`${join(directory, "nowhere")} does not exist`);
    expect((await report(directory, "--top", "0")).exitCode).toBe(2);
    expect((await report(directory, "--format", "xml")).exitCode).toBe(2);
  });
});
