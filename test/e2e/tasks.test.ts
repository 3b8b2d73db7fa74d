/** Tasks from the file to the report: values, identity, means, racing, words. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { databasePath } from "../../src/store/sqlite.ts";
import { cli, NORTHANGER, rewrite, scratch, standingWorker, table, tinyModel } from "../fixtures/harness.ts";

standingWorker();

const SHIPPED = join(packageRoot(), "configs", "tasks");
const LAYERS = [0, 1, 2, 3].map((layer) => `L${layer}.layer.skip`);

interface TaskFile {
  readonly model: string;
  readonly task: string;
  /** Below `eval:`. */
  readonly more?: string;
  readonly ablation?: string;
  readonly rest?: string;
}

function taskConfig(directory: string, { model, task, more = "", ablation, rest = "" }: TaskFile): string {
  const path = join(directory, "task.yaml");
  writeFileSync(
    path,
    `model: {name: ${model}, dtype: float32, threads: 1}
eval:
  task: ${task}
  batch_size: 4
  max_batches: 5
  ${more}
ablation: ${ablation ?? "{sweep: layers}"}
${rest}
output: {dir: ${join(directory, "out")}}
`,
  );
  return path;
}

const run = (config: string, ...args: string[]) => cli(["run", "-c", config, "-q", ...args]);

async function finished(config: string, ...args: string[]): Promise<void> {
  const { exitCode, stderr } = await run(config, "--no-plots", ...args);
  expect(exitCode, String(stderr)).toBe(0);
}

const select = (directory: string, sql: string): Record<string, unknown>[] => {
  const database = new Database(databasePath(directory), { readonly: true });
  try {
    return database.prepare(sql).all() as Record<string, unknown>[];
  } finally {
    database.close();
  }
};

/** Of the model, and of the model without layer 2: with stock transformers, every item by itself, by line index. */
function reference(model: string, task: string, ...more: string[]): Record<string, number>[][] {
  const script = join(packageRoot(), "test", "fixtures", "task_reference.py");
  return JSON.parse(
    String(execFileSync(resolveEnvironment().python, [script, model, task, "2", ...more], { stdio: "pipe" })),
  );
}

describe("a task", () => {
  it("has the values of plain transformers on each item alone, with BOS and without, with a wrong answer and without", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const items = readFileSync(join(SHIPPED, "indirect-object.jsonl"), "utf8")
      .trim()
      .split("\n")
      .slice(0, 40);
    const wrong = join(directory, "wrong.jsonl");
    writeFileSync(wrong, items.join("\n"));
    const plain = join(directory, "plain.jsonl");
    writeFileSync(
      plain,
      items.map((line) => JSON.stringify({ ...JSON.parse(line), wrong: undefined })).join("\n"),
    );
    for (const [model, task, bos] of [
      [tinyModel(), wrong, false],
      [tinyModel("--bos"), plain, true],
    ] as const) {
      await finished(
        taskConfig(directory, { model, task, ablation: "{sweep: layers, layers: [2]}" }),
        "--fresh",
      );
      const [whole = [], without = []] = reference(model, task, ...(bos ? ["--bos"] : []));
      const all: Record<string, Record<string, number>[]> = { baseline: whole, "L2.layer.skip": without };
      const measured = select(output, "SELECT * FROM block_effect");
      expect(measured).toHaveLength(20 * 2 * (bos ? 2 : 3));
      for (const { condition, block, metric, value, delta } of measured) {
        const of = (which: string): number => all[which]?.[Number(block)]?.[String(metric)] ?? Number.NaN;
        expect(value, `${condition} ${metric} ${block}`).toBeCloseTo(of(String(condition)), 4);
        expect(delta).toBeCloseTo(of(String(condition)) - of("baseline"), 4);
      }
      // Items weigh the same, whatever the length of their answers.
      const [baseline, row] = readRun(output).rows;
      const lines = select(
        output,
        "SELECT position, tokens FROM item JOIN block USING (ordinal) WHERE split = 'evaluation'",
      );
      const mean = (values: readonly number[]): number =>
        values.reduce((sum, value) => sum + value, 0) / values.length;
      const level = (which: string, metric: string): number =>
        mean(lines.map(({ position }) => all[which]?.[Number(position)]?.[metric] ?? Number.NaN));
      expect(row?.nll).toBeCloseTo(level("L2.layer.skip", "nll"), 4);
      expect(row?.delta_nll).toBeCloseTo(level("L2.layer.skip", "nll") - level("baseline", "nll"), 4);
      expect(row?.perplexity).toBeCloseTo(Math.exp(row?.nll ?? 0), 6);
      expect(row?.metrics.accuracy?.mean).toBeCloseTo(level("L2.layer.skip", "accuracy"), 9);
      expect(row?.metrics.delta_accuracy?.mean).toBeCloseTo(
        level("L2.layer.skip", "accuracy") - level("baseline", "accuracy"),
        9,
      );
      expect(baseline?.metrics.delta_accuracy).toEqual({ mean: 0, se: null, ci95: null });
      expect(row?.metrics.logit_diff === undefined).toBe(bos);
      const tokens = lines.reduce((sum, line) => sum + Number(line.tokens), 0);
      expect([row?.blocks, row?.tokens]).toEqual([20, tokens]);
      expect(tokens).toBeGreaterThan(40);
    }
  });

  it("goes on where it was, to the same bits; another file or line is another run", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const task = join(directory, "t.jsonl");
    const lines = readFileSync(join(SHIPPED, "agreement.jsonl"), "utf8").trim().split("\n");
    writeFileSync(task, lines.join("\n"));
    const more = "metrics: [kl, top1]";
    const config = taskConfig(directory, { model: tinyModel(), task, more });
    await finished(config);
    const before = table(output);
    expect(before.map(({ condition }) => condition)).toEqual(["baseline", ...LAYERS]);
    // As a controller leaves it that was killed: half of the measurements are there, and nothing is finished.
    rewrite(
      output,
      "DELETE FROM measurement WHERE condition > 0 AND block % 8 >= 4; UPDATE run SET finished_at = NULL",
    );
    await finished(config);
    expect(table(output)).toEqual(before);

    // A line that this run does not even measure.
    const used = new Set(select(output, "SELECT position FROM block").map(({ position }) => position));
    const unused = lines.findIndex((_, index) => !used.has(index));
    writeFileSync(
      task,
      lines.map((line, index) => (index === unused ? line.replace("The", "the") : line)).join("\n"),
    );
    const other = await run(config, "--no-plots");
    expect([other.exitCode, other.stderr]).toEqual([
      2,
      expect.stringMatching(/another run; these differ:\n.*task: /s),
    ]);
  });

  it("takes means from its other items or from a text, or says what is needed", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const model = tinyModel();
    const task = join(directory, "few.jsonl");
    const shipped = readFileSync(join(SHIPPED, "agreement.jsonl"), "utf8").trim().split("\n");
    writeFileSync(task, shipped.slice(0, 30).join("\n"));
    const ablation = "{sweep: mlp, mode: mean, layers: [1]}";
    const effect = async (more: string): Promise<number> => {
      await finished(taskConfig(directory, { model, task, more, ablation }), "--fresh");
      const { rows, facts } = readRun(join(directory, "out"));
      expect(facts.calibration).toBe(more.includes("northanger") ? "northanger-abbey.txt" : "few.jsonl");
      return rows[1]?.delta_nll ?? Number.NaN;
    };
    const ofItems = await effect("calibration_batches: 2");
    const ofText = await effect(`calibration: ${NORTHANGER}\n  seq_len: 256\n  calibration_batches: 2`);
    expect(Math.abs(ofItems - ofText)).toBeGreaterThan(1e-6);
    // The same config bakes: the means come from the same items.
    const baked = join(directory, "baked");
    const target = "{sweep: custom, targets: [{kind: mlp, layer: 1, mode: mean}]}";
    const biased = taskConfig(directory, { model: tinyModel("--bias"), task, ablation: target });
    const bake = await cli(["bake", "-c", biased, "--out", baked, "-q"]);
    expect(bake.exitCode, String(bake.stderr)).toBe(0);

    writeFileSync(task, shipped.slice(0, 1).join("\n"));
    const none = await run(taskConfig(directory, { model, task, ablation }), "--no-plots", "--fresh");
    expect([none.exitCode, none.stderr]).toEqual([
      2,
      expect.stringMatching(/few\.jsonl: one item is left; modes mean.*name a text in eval\.calibration/s),
    ]);
  });

  it("is raced over, confirmed on other items, and reported in its own words", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const task = join(SHIPPED, "indirect-object.jsonl");
    const config = taskConfig(directory, {
      model: tinyModel(),
      task,
      ablation: "{sweep: heads}",
      rest: "stop: {top: 2, confidence: 0.8, tolerance: 0.05}",
    });
    const set = ["--set", "eval.max_batches=24"];
    const ran = await cli(["run", "-c", config, ...set]);
    expect(ran.exitCode, String(ran.stderr)).toBe(0);
    expect(ran.stderr).toMatch(/17 conditions .* × 96 items \(\d+ tokens of answers\)/);
    const { rows, facts } = readRun(output);
    expect(facts.statistics.race).not.toBeNull();
    expect(facts.task).toMatchObject({ items: 240, wrong: true });
    expect(rows.slice(1).some(({ blocks }) => blocks < 96)).toBe(true);

    const markdown = await cli(["report", output, "--format", "md"]);
    const page = readFileSync(join(output, "report.html"), "utf8").split("<script")[0] ?? "";
    expect(existsSync(join(output, "plots", "ranking.png"))).toBe(true);
    for (const text of [ran.stdout, markdown.stdout, page].map(String)) {
      expect(text).toMatch(/\d+ items of up to \d+ tokens/);
      expect(text).toContain("this task");
      expect(text).not.toMatch(/(?<!attention )\bblocks?\b|this text/);
    }
    expect(page).toMatch(/holds prompts with answers.*the tokens of the answer alone were measured/);
    const csv = await cli(["report", output, "--format", "csv"]);
    expect(String(csv.stdout).split("\n")[0]).toContain("logit_diff,logit_diff_se,logit_diff_ci95_low");
    expect(String(csv.stdout).split("\n")[0]).toContain("delta_logit_diff_ci95_high");

    const confirmed = await cli(["report", output, "--confirm", "2", "--no-plots"]);
    expect(confirmed.exitCode, String(confirmed.stderr)).toBe(0);
    const again = `${output}-confirm-2`;
    const positions = (of: string) =>
      select(of, "SELECT position FROM block").map(({ position }) => Number(position));
    expect(positions(again).filter((position) => positions(output).includes(position))).toEqual([]);
  });

  it.each([
    ["task: TASK\n  dataset: wikitext", /task\.yaml:3: eval\.task: cannot be combined with dataset/],
    ["task: t.txt", /task\.yaml:3: eval\.task: "t\.txt" is not a task file; allowed: a \.jsonl path/],
    ["task: none.jsonl", /task\.yaml:3: eval\.task: .*none\.jsonl does not exist/],
    ["dataset: null", /task\.yaml:3: eval\.dataset: is empty, and so is task: set one of them/],
    [
      "metrics: [logit_diff]",
      /task\.yaml:3: eval\.metrics: logit_diff compares an answer with a wrong one: set eval\.task/,
    ],
  ])("refuses %s before anything starts", async (lines, words) => {
    const directory = scratch();
    const path = join(directory, "task.yaml");
    const task = join(SHIPPED, "agreement.jsonl");
    writeFileSync(
      path,
      `model: {name: ${tinyModel()}}\neval:\n  ${lines.replace("TASK", task)}\noutput: {dir: ${directory}/out}\n`,
    );
    const { exitCode, stderr } = await run(path);
    expect([exitCode, stderr]).toEqual([2, expect.stringMatching(words)]);
  });

  it("names the line of what the model cannot take", { timeout: 120_000 }, async () => {
    const directory = scratch();
    const task = join(directory, "t.jsonl");
    const good = '{"prompt": "a", "answer": " b"}\n';
    const refused = async (line: string, more = ""): Promise<string> => {
      writeFileSync(task, `${good}${line}\n`);
      const { exitCode, stderr } = await run(
        taskConfig(directory, { model: tinyModel(), task, more }),
        "--no-plots",
      );
      expect(exitCode).toBe(2);
      return String(stderr);
    };
    const item = (prompt: string) => JSON.stringify({ prompt, answer: " c" });
    expect(await refused(item("x".repeat(600)))).toMatch(
      /t\.jsonl:2: prompt and answer have 602 tokens; allowed: up to 512 \(the model's positions\)/,
    );
    expect(await refused(item("x".repeat(60)), "seq_len: 50")).toMatch(
      /t\.jsonl:2: prompt and answer have 62 tokens; allowed: up to 50 \(eval\.seq_len\)/,
    );
    expect(await refused("nonsense")).toMatch(/t\.jsonl:2: is not JSON/);
    expect(await refused(item("x"), "metrics: [logit_diff]")).toMatch(/logit_diff.*no wrong answers/);
  });
});
