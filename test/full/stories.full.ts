/** The pages that tell a story, on SmolLM2: the figures that they show come out again (directions.full.ts has its own). */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { cli, table } from "../fixtures/harness.ts";
import { fences } from "../fixtures/markdown.ts";
import { page, readThrough, type Story } from "../fixtures/story.ts";

/** In a scratch directory there is no package.json; the command behind it is the same. */
const asTyped = (command: string): string =>
  command.replace("npm run quickstart", "npx sparkablate quickstart");

it("docs/tutorial.md: from a first sweep to a certified model, with the figures that the page shows", async () => {
  const { directory, told } = await readThrough("tutorial", asTyped);
  comparesWithPage("tutorial", [
    ...rows(join(directory, "results/smoke_test")),
    ...rows(join(directory, "results/fewer-layers")),
  ]);
  const baked = JSON.parse(readFileSync(join(directory, "baked/28-layers/sparkablate_bake.json"), "utf8"));
  expect(baked.certificate.passed).toBe(true);
  expect(told.at(-1)?.stdout).toMatch(/^28 layers/);
});

it("docs/redundancy.md: heads alone and together, with the figures that the page shows", async () => {
  const { directory } = await readThrough("redundancy", asTyped);
  comparesWithPage("redundancy", rows(join(directory, "results/redundancy")));
});

it("docs/your-own-text.md: two texts, with the figures that the page shows", async () => {
  const { directory } = await readThrough("your-own-text", asTyped);
  const novel = rows(join(directory, "results/novel"));
  comparesWithPage("your-own-text", [...novel, ...rows(join(directory, "results/licence"))]);
});

it("docs/tasks.md: the shipped tasks, with the figures that the page shows", async () => {
  const { directory } = await readThrough("tasks", asTyped);
  comparesWithPage("tasks", rows(join(directory, "results/task")));
  const shown = [...page("tasks").matchAll(/^\| `(.+)\.jsonl` \| .* \| (\d\.\d+) \| (\d\.\d+) \|/gm)];
  expect(shown.length).toBe(4);
  for (const [, name = "", accuracy, logits] of shown) {
    const output = join(directory, "results", `of-${name}`);
    const set = [
      `eval.task=shipped:tasks/${name}.jsonl`,
      "ablation.layers=[29]",
      "ablation.mode=zero",
      `output.dir=${output}`,
    ];
    const config = join(packageRoot(), "configs", "task.yaml");
    const ran = await cli(["run", "-c", config, "--no-plots", ...set.flatMap((one) => ["--set", one])]);
    expect(ran.exitCode, String(ran.stderr)).toBe(0);
    const [baseline] = table(output);
    expect(baseline?.accuracy, name).toBeCloseTo(Number(accuracy), 3);
    expect(baseline?.logit_diff, name).toBeCloseTo(Number(logits), 2);
  }
});

interface Measured {
  readonly condition: string;
  readonly delta_nll: number;
}

const rows = (directory: string): Measured[] => table(directory) as unknown as Measured[];

/** Every row of the page's tables is one of the runs', up to a digit that another machine rounds otherwise. */
function comparesWithPage(story: Story, measured: readonly Measured[]): void {
  const shown = fences(page(story))
    .filter(({ language }) => language === "text")
    .flatMap(({ text }) => [...text.matchAll(/(L\d+\S*(?: \+ L\d+\S*)*) +([+−]\d+\.\d+) /g)])
    .map(([, condition = "", effect = ""]) => ({ condition, effect: Number(effect.replace("−", "-")) }));
  expect(shown.length).toBeGreaterThan(4);
  for (const { condition, effect } of shown) {
    const found = measured.filter((row) => row.condition === condition);
    expect(
      found.some(({ delta_nll }) => Math.abs(delta_nll - effect) < 0.002),
      `${condition}: ${effect} against ${found.map(({ delta_nll }) => delta_nll)}`,
    ).toBe(true);
  }
}
