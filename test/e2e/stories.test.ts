/** Pages that tell a story: every command works, in order, on a model of the same shape (test/full has the real one). */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { standingWorker } from "../fixtures/harness.ts";
import { lookalike } from "../fixtures/reader.ts";
import { page, readThrough } from "../fixtures/story.ts";

standingWorker();

/** Set-up was done before the tests began; what is left of quickstart is the smoke run and its report. */
const QUICKSTART = "npx sparkablate run -c configs/smoke_test.yaml";

/** Random weights, few and short blocks; no limit to what a direction may cost. */
function onLookalike(command: string): string {
  const here = command
    .replace("npm run quickstart", QUICKSTART)
    .replaceAll("builtin:smollm2-135m", lookalike());
  if (here.includes(" direction ")) return `${here} --dtype float32 --max-kl 1000`;
  if (here.includes(" compare ")) return `${here} --dtype float32`;
  if (!here.includes(" run ")) return here;
  // Of a task the length is that of its items.
  const length = here.includes("task") ? [] : ["eval.seq_len=32"];
  const fewer = ["eval.max_batches=1", "eval.skip_batches=1", ...length];
  return `${here} --set model.name=${lookalike()} ${fewer.map((one) => `--set ${one}`).join(" ")}`;
}

const certificate = (directory: string): unknown =>
  JSON.parse(readFileSync(join(directory, "sparkablate_bake.json"), "utf8"));

describe("docs/tutorial.md", { timeout: 600_000 }, () => {
  it("goes from a first sweep to a certified model that plain transformers loads", async () => {
    const { directory, told } = await readThrough("tutorial", onLookalike);
    expect(existsSync(join(directory, "results/smoke_test/report.html"))).toBe(true);
    expect(certificate(join(directory, "baked/28-layers"))).toMatchObject({ certificate: { edit: {} } });
    expect(told.at(-1)?.stdout).toMatch(/^28 layers/);
  });
});

describe("docs/directions.md", { timeout: 600_000 }, () => {
  it("goes from prompts to a certificate", async () => {
    const { directory } = await readThrough("directions", onLookalike);
    expect(certificate(join(directory, "baked/no-french"))).toMatchObject({ certificate: { passed: true } });
    expect(existsSync(join(directory, "results/french/results.jsonl"))).toBe(true);
  });

  it("names the columns that the table has", () => {
    for (const column of ["lowered", "raised", "KL"]) expect(page("directions")).toContain(`| ${column} |`);
  });
});

describe("docs/redundancy.md", { timeout: 600_000 }, () => {
  it("measures heads alone and together", async () => {
    const { directory } = await readThrough("redundancy", onLookalike);
    expect(existsSync(join(directory, "results/redundancy/results.jsonl"))).toBe(true);
  });
});

describe("docs/your-own-text.md", { timeout: 600_000 }, () => {
  it("measures the same heads on two texts and compares them", async () => {
    const { directory } = await readThrough("your-own-text", onLookalike);
    for (const run of ["novel", "licence"])
      expect(existsSync(join(directory, `results/${run}/results.jsonl`)), run).toBe(true);
  });
});

describe("docs/tasks.md", { timeout: 600_000 }, () => {
  it("measures two of the shipped tasks", async () => {
    const { directory } = await readThrough("tasks", onLookalike);
    for (const run of ["task", "greater-than"])
      expect(existsSync(join(directory, `results/${run}/results.jsonl`)), run).toBe(true);
  });
});
