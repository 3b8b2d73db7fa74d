/** `report --tokens`: the run's own numbers token by token, measured once, and never mixed with others. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { expect, it } from "vitest";
import { readRun } from "../../src/store/run-directory.ts";
import { databasePath } from "../../src/store/sqlite.ts";
import { cli, rewrite, scratch, standingWorker, sweepFile, tinyModel } from "../fixtures/harness.ts";

standingWorker();

interface Shown {
  readonly delta_nll: number;
  readonly tokens: number;
  readonly top: readonly {
    readonly block: number;
    readonly position: number;
    readonly delta: number;
    readonly bytes: string;
    readonly token: string;
  }[];
  readonly by_position: readonly { readonly tokens: number; readonly share: number }[];
}

const TEXT = "“Naïve — no,” she said; it’s 5 € for 漢字. <script>alert(1)</script>\n".repeat(120);

it("adds up to the run's own sums, needs no worker the second time, and stands on the page", {
  timeout: 300_000,
}, async () => {
  const directory = scratch();
  const text = join(directory, "text.txt");
  writeFileSync(text, TEXT);
  const output = join(directory, "out");
  const ablation = "sweep: mlp\n  mode: mean\n  layers: [1, 2]";
  const config = sweepFile(directory, { model: tinyModel("--bos"), output, text, batches: 5, ablation });
  const edit = ["--set", "eval.metrics=[nll, kl]"];
  const run = await cli(["run", "-c", config, "-q", "--no-plots", ...edit]);
  expect(run.exitCode, String(run.stderr)).toBe(0);

  const tokens = (condition: string, ...flags: string[]) =>
    cli(["report", output, "--tokens", condition, ...flags]);
  const first = await tokens("L2.mlp.mean", "--json", "--top", "7");
  expect(first.exitCode, String(first.stderr)).toBe(0);
  const shown = JSON.parse(String(first.stdout)) as Shown;
  const row = readRun(output).rows.find(({ condition }) => condition === "L2.mlp.mean");
  expect(shown.tokens).toBe(row?.tokens);
  expect(shown.delta_nll).toBeCloseTo(row?.delta_nll ?? Number.NaN, 12);
  expect(shown.top).toHaveLength(7);

  // What is kept is what was summed: float32 a token, added up in float64.
  const database = new Database(databasePath(output));
  const kept = database
    .prepare(`SELECT nll, sum FROM token_nll JOIN measurement USING (condition, block) WHERE metric = 'nll'`)
    .raw()
    .all() as [Uint8Array, number][];
  expect(kept).toHaveLength(2 * 20);
  for (const [bytes, sum] of kept) {
    const nll = new Float32Array(new Uint8Array(bytes).buffer);
    expect(nll).toHaveLength(31);
    const total = nll.reduce((all, value) => all + value, 0);
    expect(Math.abs(total - sum)).toBeLessThan(1e-12 * sum);
  }
  // The bytes of a block's tokens are a piece of the text, also where they cut characters.
  const blocks = database.prepare("SELECT ids FROM token_block").pluck().all() as Uint8Array[];
  const texts = new Map(
    database.prepare("SELECT id, bytes FROM token_text").raw().all() as [number, Uint8Array][],
  );
  for (const bytes of blocks) {
    const [, ...ids] = new Int32Array(new Uint8Array(bytes).buffer);
    const piece = Buffer.concat(ids.map((id) => texts.get(id) as Uint8Array));
    expect(Buffer.from(TEXT).includes(piece)).toBe(true);
  }
  database.close();

  // The same again from what is kept: this address has no worker.
  const nobody = ["--worker", `ipc://${join(directory, "nobody")}`];
  const again = await tokens("L2.mlp.mean", "--json", "--top", "7", ...nobody);
  expect([again.exitCode, again.stdout]).toEqual([0, first.stdout]);
  // More than a pipe holds at once.
  const all = await tokens("L2.mlp.mean", "--json", "--top", "1000", "--no-plots");
  expect((JSON.parse(String(all.stdout)) as Shown).top).toHaveLength(20 * 31);
  const page = readFileSync(join(output, "report.html"), "utf8");
  expect(page).toContain("Where L2.mlp.mean hurts");
  expect(page).not.toContain("<script>alert");
  const table = await tokens("L2.mlp.mean", "--no-plots");
  expect(table.stdout).toContain("selected as the largest of all");

  for (const [condition, words] of [
    ["L2.mlp.zero", 'did you mean "L2.mlp.mean"?'],
    ["baseline", "the baseline is what a condition is compared with"],
  ] as const) {
    const refused = await tokens(condition, ...nobody);
    expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining(words)]);
  }

  // Another model's numbers would not be the run's: nothing is kept, nothing is shown.
  rewrite(
    output,
    "UPDATE measurement SET sum = sum + 1e-9 WHERE condition = 1 AND block = 7 AND metric = 'nll'",
  );
  const conflict = await tokens("L1.mlp.mean", "--json");
  expect(conflict.exitCode).toBe(3);
  expect(JSON.parse(String(conflict.stdout))).toMatchObject({ error: { code: "measurement_conflict" } });
  expect(conflict.stderr).toContain("error (measurement_conflict): L1.mlp.mean, block 7: measured again");
  const stored = new Database(databasePath(output), { readonly: true });
  const count = stored.prepare(
    "SELECT count(*) FROM token_nll WHERE condition = 1 AND block BETWEEN 4 AND 7",
  );
  expect(count.pluck().get()).toBe(0);
  stored.close();
  // Kept values that no longer fit the sums are not shown either.
  rewrite(
    output,
    "UPDATE measurement SET sum = sum + 1 WHERE condition = 2 AND block = 0 AND metric = 'nll'",
  );
  const torn = await tokens("L2.mlp.mean", ...nobody);
  expect([torn.exitCode, torn.stderr]).toEqual([3, expect.stringContaining("values a token add up to")]);
});

it("of a task it shows the answers' tokens, each once", { timeout: 300_000 }, async () => {
  const directory = scratch();
  const task = join(directory, "task.jsonl");
  const items = Array.from({ length: 20 }, (_, at) => ({
    prompt: `${at} is followed by`,
    answer: " yz".slice(0, 2 + (at % 2)),
  }));
  writeFileSync(task, items.map((item) => `${JSON.stringify(item)}\n`).join(""));
  const output = join(directory, "out");
  const config = join(directory, "sweep.yaml");
  writeFileSync(
    config,
    `model: {name: ${tinyModel()}, dtype: float32, threads: 1}
eval: {task: ${task}, batch_size: 4}
ablation: {sweep: layers}
output: {dir: ${output}}
`,
  );
  const run = await cli(["run", "-c", config, "-q", "--no-plots"]);
  expect(run.exitCode, String(run.stderr)).toBe(0);
  const told = await cli(["report", output, "--tokens", "L0.layer.skip", "--json", "--top", "50"]);
  expect(told.exitCode, String(told.stderr)).toBe(0);
  const shown = JSON.parse(String(told.stdout)) as Shown;
  expect(shown).toMatchObject({ unit: "item", blocks: 20, tokens: 10 * 2 + 10 * 3 });
  expect(new Set(shown.top.map(({ token }) => token))).toEqual(new Set(["␣", "y", "z"]));
  expect(shown.by_position.map(({ tokens }) => tokens)).toEqual([20, 30]);
  for (const { block, position, bytes } of shown.top) {
    const { prompt, answer } = items[block] as (typeof items)[number];
    expect((prompt + answer)[position]?.charCodeAt(0).toString(16)).toBe(bytes);
  }
});
