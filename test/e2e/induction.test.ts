/** A circuit that is known beforehand: in two layers of attention, induction takes a head that looks one token back. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { rankInteractions } from "../../src/results/ranking.ts";
import type { Row } from "../../src/results/row.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { cli, scratch, standingWorker } from "../fixtures/harness.ts";

standingWorker();

const TASK = join(packageRoot(), "configs", "tasks", "induction.jsonl");
const HEADS = [0, 1];

/** Mean attention of each head, by layer and head, as test/fixtures/induction_model.py measures it. */
interface Attention {
  readonly previous: readonly (readonly number[])[];
  readonly induction: readonly (readonly number[])[];
}

it("the induction task finds the heads, and their interactions tell a chain from a reserve", {
  timeout: 600_000,
}, async () => {
  const directory = scratch();
  const model = join(directory, "model");
  const script = join(packageRoot(), "test", "fixtures", "induction_model.py");
  const printed = execFileSync(resolveEnvironment().python, [script, TASK, model], { stdio: "pipe" });
  const { previous, induction } = JSON.parse(String(printed)) as Attention;
  // Who does what by where it looks: nothing of ours is used for it.
  for (const head of HEADS) {
    expect(induction[1]?.[head]).toBeGreaterThan(0.3);
    expect(induction[0]?.[head]).toBeLessThan(0.1);
    expect(previous[1]?.[head]).toBeLessThan(0.1);
  }
  const looksBack = largest(HEADS, (head) => previous[0]?.[head] ?? 0);
  expect(previous[0]?.[looksBack]).toBeGreaterThan(0.3);

  const run = async (name: string, ablation: string): Promise<readonly Row[]> => {
    const config = join(directory, `${name}.yaml`);
    writeFileSync(
      config,
      `model: {name: ${model}, dtype: float32, threads: 1}
eval: {task: ${TASK}, batch_size: 8, max_batches: 16}
ablation: ${ablation}
output: {dir: ${join(directory, name)}}
`,
    );
    const { exitCode, stderr } = await cli(["run", "-c", config, "-q", "--no-plots"]);
    expect(exitCode, String(stderr)).toBe(0);
    return readRun(join(directory, name)).rows;
  };
  const rows = await run("heads", "{sweep: heads}");
  const [baseline] = rows;
  expect(baseline?.blocks).toBe(128);
  expect(baseline?.metrics.accuracy?.mean).toBeGreaterThan(0.95);
  expect(baseline?.metrics.logit_diff?.ci95?.[0]).toBeGreaterThan(2);
  expect(baseline?.nll).toBeLessThan(0.5);

  const row = (id: string): Row => rows.find(({ condition }) => condition === id) as Row;
  const head = (layer: number, index: number): Row => row(`L${layer}.head[${index}].zero`);
  // Both induction heads are needed for all there is to win, and each stands in for the other.
  for (const index of HEADS) {
    expect(head(1, index).ci95?.[0], head(1, index).condition).toBeGreaterThan(0);
    expect(head(1, index).metrics.delta_logit_diff?.ci95?.[1]).toBeLessThan(0);
  }
  const inducts = largest(HEADS, (index) => head(1, index).delta_nll ?? 0);
  // Without the look back both of them read the wrong key.
  expect(head(0, looksBack).ci95?.[0]).toBeGreaterThan(head(1, inducts).ci95?.[1] ?? Number.NaN);
  expect(head(0, looksBack).metrics.delta_accuracy?.ci95?.[1]).toBeLessThan(0);

  const pairs = await run("pairs", `{sweep: pairs, from: ${join(directory, "heads")}, top: 4}`);
  const interaction = (...ids: string[]) =>
    rankInteractions(pairs).find(({ interaction: { parts } }) => ids.every((id) => parts.includes(id)))
      ?.interaction;
  // One behind the other: what the first breaks, the second cannot break again.
  const chain = interaction(head(0, looksBack).condition, head(1, inducts).condition);
  expect(chain?.ci95?.[1]).toBeLessThan(0);
  // Beside each other: alone each hides the other's loss.
  const reserve = interaction(...HEADS.map((index) => head(1, index).condition));
  expect(reserve?.ci95?.[0]).toBeGreaterThan(1);
});

function largest(of: readonly number[], value: (one: number) => number): number {
  return of.reduce((best, one) => (value(one) > value(best) ? one : best));
}
