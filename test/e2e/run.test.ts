import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { rankRows } from "../../src/results/ranking.ts";
import { readRun } from "../../src/store/run-directory.ts";
import {
  cli,
  NORTHANGER,
  processesOf,
  scratch,
  standingWorker,
  sweepFile,
  table,
  tinyModel,
  until,
} from "../fixtures/harness.ts";

standingWorker();

describe("a sweep from config to finished directory", () => {
  it("measures every layer, writes every file, and is not computed again", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output });
    const first = await cli(["run", "-c", config]);
    expect(first.exitCode, String(first.stderr)).toBe(0);
    expect(first.stdout).toContain("L3.layer.skip");
    expect(first.stderr).toMatch(
      /to do: the work of \d+(\.\d)? forward passes over a batch, about \d+ s; peak memory of the worker about \d+\.\d GiB/,
    );

    const rows = table(output);
    expect(rows.map(({ condition }) => condition)).toEqual([
      "baseline",
      ...[0, 1, 2, 3].map((layer) => `L${layer}.layer.skip`),
    ]);
    for (const row of rows)
      expect(row).toMatchObject({ status: "done", blocks: 16, tokens: 16 * 31, error: null });
    const summary = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
    expect(summary).toMatchObject({ conditions: 4, measured: 4, failed: 0, baseline: { blocks: 16 } });
    for (const file of ["config.yaml", "report.html", "plots/layers.png"]) {
      expect(readFileSync(join(output, file)).length, file).toBeGreaterThan(100);
    }

    const attempts = (): unknown =>
      new Database(join(output, "results.sqlite"), { readonly: true })
        .prepare("SELECT count(*) FROM attempt")
        .pluck()
        .get();
    const before = attempts();
    const again = await cli(["run", "-c", config, "--json"]);
    expect(again.exitCode, String(again.stderr)).toBe(0);
    expect(attempts()).toBe(before);
    expect(again.stderr).not.toContain("to do:");
    expect(table(output)).toEqual(rows);
  });

  it("gives the NLLs of plain transformers and hooks, bit for bit in bfloat16", async () => {
    const directory = scratch();
    const model = tinyModel();
    const ablation =
      "sweep: custom\n  targets: [{kind: layer, layer: 0}, {kind: layer, layer: 2}, {kind: head, layer: 1, heads: [3]}]";
    for (const dtype of ["float32", "bfloat16"]) {
      const output = join(directory, dtype);
      const config = sweepFile(directory, { model, output, dtype, ablation });
      const run = await cli(["run", "-c", config, "-q", "--no-plots"]);
      expect(run.exitCode, String(run.stderr)).toBe(0);
      const ours = table(output).map(({ nll }) => nll as number);
      const theirs = reference(model, dtype, output);
      for (const [index, nll] of ours.entries()) {
        if (dtype === "bfloat16") expect(nll).toBe(theirs[index]);
        else expect(Math.abs(nll - (theirs[index] ?? 0))).toBeLessThan(1e-6);
      }
      expect(new Set(ours).size).toBe(4);
    }
  });

  it("works from a subfolder with relative paths, and overrides with --set", async () => {
    const directory = scratch();
    const inner = join(directory, "a", "b");
    mkdirSync(inner, { recursive: true });
    writeFileSync(join(directory, "a", "text.txt"), readFileSync(NORTHANGER).subarray(0, 20_000));
    sweepFile(directory, { model: tinyModel(), output: "../out", text: "../text.txt" });
    const run = await cli(
      [
        "run",
        "-c",
        "../../sweep.yaml",
        "--set",
        "eval.max_batches=2",
        "--set",
        "ablation.layers=[1]",
        "--json",
      ],
      { cwd: inner },
    );
    expect(run.exitCode, String(run.stderr)).toBe(0);
    expect(
      readRun(join(directory, "a", "out")).rows.map(({ condition, blocks }) => [condition, blocks]),
    ).toEqual([
      ["baseline", 8],
      ["L1.layer.skip", 8],
    ]);
  });

  it("puts the BOS token before every block where the tokenizer adds it", async () => {
    const directory = scratch();
    for (const [flags, bos] of [
      [[], false],
      [["--bos"], true],
    ] as const) {
      const output = join(directory, String(bos));
      const config = sweepFile(directory, { model: tinyModel(...flags), output, batches: 1 });
      const run = await cli(["run", "-c", config, "-q", "--no-plots"]);
      expect(run.exitCode, String(run.stderr)).toBe(0);
      expect(readRun(output).facts.bos).toBe(bos);
    }
    expect(table(join(directory, "true"))[0]?.nll).not.toBe(table(join(directory, "false"))[0]?.nll);
  });

  it("refuses a directory of another run and names the differing keys; --fresh moves it aside", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output, batches: 1 });
    expect((await cli(["run", "-c", config, "-q", "--no-plots"])).exitCode).toBe(0);
    const before = table(output);
    const other = await cli(["run", "-c", config, "--set", "eval.seq_len=48"]);
    expect(other.exitCode).toBe(2);
    expect(other.stderr).toContain("config.eval.seq_len: 32 there, 48 now");
    expect(table(output)).toEqual(before);
    const fresh = await cli(["run", "-c", config, "--set", "eval.seq_len=48", "--fresh", "-q", "--no-plots"]);
    expect(fresh.exitCode, String(fresh.stderr)).toBe(0);
    expect(table(output)[0]).toMatchObject({ tokens: 4 * 47 });
  });

  it("rebuilds torn or missing files from the database", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output, batches: 1 });
    expect((await cli(["run", "-c", config, "-q", "--no-plots"])).exitCode).toBe(0);
    const rows = table(output);
    writeFileSync(join(output, "results.jsonl"), '{"condition": "base');
    rmSync(join(output, "summary.json"));
    expect((await cli(["run", "-c", config, "-q", "--no-plots"])).exitCode).toBe(0);
    expect(table(output)).toEqual(rows);
    expect(JSON.parse(readFileSync(join(output, "summary.json"), "utf8"))).toMatchObject({ measured: 4 });
  });

  it("measures what rounding does below float32, outside the table", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output, dtype: "bfloat16" });
    const run = await cli(["run", "-c", config, "-q", "--no-plots"]);
    expect(run.exitCode, String(run.stderr)).toBe(0);
    expect(table(output)).toHaveLength(5);
    const { numeric_floor } = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
    expect(numeric_floor.rms).toBeGreaterThan(0);
    expect(Math.abs(numeric_floor.mean)).toBeLessThanOrEqual(numeric_floor.rms);
    expect(readRun(output).facts.statistics.floor).toEqual(numeric_floor);
  });

  it("stop: spares what cannot be in the top, and decides the same when it is interrupted", async () => {
    const directory = scratch();
    const model = tinyModel("--layers", "8", "--width", "256");
    const sized = { model, batches: 16, ablation: "sweep: layers\nstop: {top: 1, tolerance: 0.5}" };
    const whole = join(directory, "whole");
    const config = sweepFile(directory, { ...sized, output: whole });
    const run = await cli(["run", "-c", config, "-q", "--no-plots"]);
    expect(run.exitCode, String(run.stderr)).toBe(0);
    const { work, race } = JSON.parse(readFileSync(join(whole, "summary.json"), "utf8"));
    expect(race).toMatchObject({ top: 1, conditions: 8, rounds: [16, 32, 64] });
    expect(work.saved).toBeGreaterThan(0);
    const rows = table(whole);
    expect(rows.filter(({ flags }) => (flags as string[]).includes("in the top"))).toHaveLength(1);
    for (const row of rows) expect(row).toMatchObject({ p: null, q: null });

    const cut = join(directory, "cut");
    const first = cli(["run", "-c", config, "--set", `output.dir=${cut}`, "-q", "--no-plots"]);
    await until(() => existsSync(join(cut, "results.jsonl")), 60, "the run begins");
    first.kill("SIGINT");
    await first;
    const second = await cli(["run", "-c", config, "--set", `output.dir=${cut}`, "-q", "--no-plots"]);
    expect(second.exitCode, String(second.stderr)).toBe(0);
    expect(table(cut)).toEqual(rows);
  });

  it("report --confirm measures the top again on blocks that the run did not use", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output, ablation: "sweep: mlp\n  mode: mean" });
    const run = await cli(["run", "-c", config, "-q", "--no-plots"]);
    expect(run.exitCode, String(run.stderr)).toBe(0);
    const confirmed = await cli(["report", "out", "--confirm", "2", "--no-plots"], { cwd: directory });
    expect(confirmed.exitCode, String(confirmed.stderr)).toBe(0);
    const top = rankRows(readRun(output).rows).slice(0, 2);
    const again = readRun(`${output}-confirm-2`);
    expect(new Set(again.rows.slice(1).map(({ condition }) => condition))).toEqual(
      new Set(top.map(({ condition }) => condition)),
    );
    expect(again.rows[0]?.blocks).toBe(16);
    const blocks = (path: string, splits: string): unknown[] =>
      new Database(join(path, "results.sqlite"), { readonly: true })
        .prepare(`SELECT sha256 FROM block WHERE split IN (${splits})`)
        .pluck()
        .all();
    const used = new Set(blocks(output, "'evaluation', 'calibration'"));
    const evaluated = blocks(`${output}-confirm-2`, "'evaluation'");
    expect(evaluated.filter((block) => used.has(block))).toEqual([]);
  });

  it("calibrates means once and sends them again on resume", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const ablation = "sweep: mlp\n  mode: mean";
    const config = sweepFile(directory, { model: tinyModel(), output, ablation });
    const run = await cli(["run", "-c", config, "--no-plots"]);
    expect(run.exitCode, String(run.stderr)).toBe(0);
    expect(run.stderr).not.toContain("starting again");
    expect(table(output).map(({ condition, status }) => [condition, status])).toEqual([
      ["baseline", "done"],
      ...[0, 1, 2, 3].map((layer) => [`L${layer}.mlp.mean`, "done"]),
    ]);
    expect(readRun(output).facts.calibration).toBe("northanger-abbey.txt");
  });
});

/** Baseline, layer 0 skipped, layer 2 skipped, head 3 of layer 1 zeroed. */
function reference(model: string, dtype: string, output: string): number[] {
  const positions = new Database(join(output, "results.sqlite"), { readonly: true })
    .prepare("SELECT position FROM block WHERE split = 'evaluation' ORDER BY ordinal")
    .pluck()
    .all();
  const specs = [{}, { skip: 0 }, { skip: 2 }, { layer: 1, head: 3 }];
  const script = join(packageRoot(), "test", "fixtures", "reference.py");
  const args = [model, dtype, NORTHANGER, "32", "4", JSON.stringify(positions), JSON.stringify(specs)];
  const { python } = resolveEnvironment();
  const printed = execFileSync(python, [script, ...args], { env: { ...process.env, OMP_NUM_THREADS: "1" } });
  return JSON.parse(printed.toString());
}

describe("bad input", () => {
  const refused = [
    [
      "an unknown key",
      (text: string) => text.replace("seq_len", "seq_length"),
      /sweep\.yaml:2: eval\.seq_length: .*seq_len/,
    ],
    [
      "a misspelt site",
      (text: string) =>
        text.replace("sweep: layers", "sweep: custom\n  targets: [{kind: haed, layer: 0, heads: [0]}]"),
      /sweep\.yaml:5: .*did you mean.*head/i,
    ],
    [
      "a missing text file",
      (text: string) => text.replace("northanger-abbey.txt", "no-such.txt"),
      /sweep\.yaml:2: eval\.dataset: .*no-such\.txt does not exist/,
    ],
    [
      "a missing model directory",
      (text: string) => text.replace(/name: [^,]+/, "name: ./no-such-model"),
      /sweep\.yaml:1: model\.name: .*no-such-model does not exist/,
    ],
  ] as const;
  it.each(refused)("%s: exit 2, named with its line, and no Python is needed", async (_, spoil, message) => {
    const directory = scratch();
    const config = sweepFile(directory, { model: "builtin:smollm2-135m", output: join(directory, "out") });
    writeFileSync(config, spoil(readFileSync(config, "utf8")));
    // With an empty home there is no environment to start Python from: exit code 3 would say that it was tried.
    const run = await cli(["run", "-c", config], { env: { SPARKABLATE_HOME: directory } });
    expect(run.stderr).toMatch(message);
    expect(run.exitCode).toBe(2);
  });

  it("layer 99 and a text shorter than one block: exit 2, and no process is left", async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output, ablation: "layers: [1, 99]" });
    const mark = output;
    const range = await cli(["run", "-c", config]);
    expect(range.stderr).toMatch(/sweep\.yaml:4: ablation\.layers: .*99.*allowed: 0 to 3/);
    expect(range.exitCode).toBe(2);
    const short = join(directory, "short.txt");
    writeFileSync(short, "It was a dark night.");
    const tooShort = sweepFile(directory, { model: tinyModel(), output, text: short });
    const text = await cli(["run", "-c", tooShort, "--worker", "spawn"], { mark });
    expect(text.stderr).toMatch(/short\.txt: the text has 20 tokens.*32/);
    expect(text.exitCode).toBe(2);
    expect(processesOf(mark)).toEqual([]);
  });
});
