import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import type { Page } from "playwright-core";
import { afterAll, describe, expect, test } from "vitest";
import type { Condition } from "../../../src/protocol/messages.ts";
import { agree, type NamedRun } from "../../../src/report/agreement/agreement.ts";
import { agreementChart } from "../../../src/report/agreement/chart.ts";
import { writeAgreement } from "../../../src/report/agreement/files.ts";
import { agreementTable } from "../../../src/report/agreement/formats.ts";
import { cautions } from "../../../src/report/agreement/words.ts";
import { renderPng } from "../../../src/report/png.ts";
import type { RunFacts } from "../../../src/results/facts.ts";
import type { ConditionMeasurements } from "../../../src/results/row.ts";
import { readBlockRun } from "../../../src/store/block-run.ts";
import type { Identity } from "../../../src/store/fingerprint.ts";
import type { Seen } from "../../../src/store/seen.ts";
import { RunStore } from "../../../src/store/sqlite.ts";
import { hasBrowser, hoverText, inBrowser, launchBrowser, visit } from "../../fixtures/browser.ts";
import { condition, facts, measured, skip, sweep } from "../planted.ts";
import { plantRun } from "../planted-run.ts";

const scratch = mkdtempSync(join(tmpdir(), "agreement-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const head = (index: number, mode: "zero" | "mean", positions: "all" | "not_first" = "all"): Condition =>
  condition(`L2.head[${index}].${mode}${positions === "all" ? "" : "@not_first"}`, {
    kind: "head",
    layer: 2,
    heads: [index],
    mode,
    positions,
  });

interface Planted {
  readonly baseline: ConditionMeasurements;
  readonly conditions: readonly ConditionMeasurements[];
  readonly facts?: Partial<RunFacts>;
  readonly identity?: Identity;
  readonly seen?: Seen;
  readonly n_layers?: number;
  readonly text?: string;
}

let planted = 0;
function plant({ baseline, conditions, facts: more, seen, ...rest }: Planted): NamedRun {
  const name = `run-${planted++}`;
  const directory = join(scratch, name);
  plantRun(
    directory,
    facts({ name, sweep: "heads", planned_conditions: conditions.length, ...more }),
    baseline,
    conditions,
    rest,
  );
  if (seen !== undefined) {
    const store = RunStore.open(directory);
    store.keepSeen(seen);
    store.close();
  }
  return { name, letter: name, directory, run: readBlockRun(directory) };
}

const COUNT = 12;
const values = Array.from({ length: COUNT }, (_, index) => 0.1 * (index + 1));
/** Zeroed heads; the same heads' means, of which head 3 is worth much less. Both on the same blocks. */
const zero = sweep(
  values.map((mean, index) => ({ of: head(index, "zero"), mean, sd: 0.05 })),
  32,
);
const mean = sweep(
  values.map((value, index) => ({ of: head(index, "mean"), mean: index === 3 ? 0.02 : value, sd: 0.06 })),
  32,
);

describe("zero against mean", () => {
  const found = agree(plant(zero), plant(mean));

  test("the same heads stand beside each other, the planted disagreement comes first", () => {
    expect(found.pairs).toHaveLength(COUNT);
    const [first, ...others] = found.pairs;
    expect(first?.site).toBe("L2.head[3]");
    expect(first?.rows.map((row) => row.condition)).toEqual(["L2.head[3].zero", "L2.head[3].mean"]);
    expect(first?.difference?.mean).toBeCloseTo(0.02 - 0.4, 12);
    expect(first).toMatchObject({ distinguishable: true, ranks: [9, 12] });
    for (const pair of others) expect(Math.abs(pair.difference?.mean ?? 1)).toBeLessThan(1e-9);
    expect(found.differing).toEqual([]);
    expect(found.unpaired).toBeNull();
    expect(cautions(found)).toEqual([]);
  });

  test("ρ and the tops are those of the two rankings", () => {
    // Only head 3 moves, from rank 9 to 12; three others move up by one: Σ d² = 9 + 3.
    expect(found.ranking.rho).toBeCloseTo(1 - (6 * 12) / (COUNT * (COUNT ** 2 - 1)), 12);
    expect(found.ranking).toMatchObject({ n: COUNT, ties: [0, 0] });
    expect(found.top).toEqual([{ k: 5, shared: 5, by_chance: 25 / COUNT }]);
    for (const rho of found.halves) expect(rho).toBeGreaterThan(0.9);
  });

  test("in the scatter the two runs' effects are the coordinates, on one scale", () => {
    const chart = agreementChart(found);
    const point = chart.points.find((one) => one.condition === "L2.head[3]");
    expect(point).toMatchObject({ mark: "distinguishable", named: true });
    expect(point?.x).toBeCloseTo(0.4, 9);
    expect(point?.y).toBeCloseTo(0.02, 9);
    expect(point?.hover.join(" ")).toContain("rank 9");
    expect(renderPng(chart).length).toBeGreaterThan(10_000);
  });

  test.each([72, 80, 120])("the table fits a terminal of %i columns", (width) => {
    const text = agreementTable(found.runs, [found], { top: null, width, paint: (_, one) => one });
    for (const line of text.split("\n")) expect(line.length).toBeLessThanOrEqual(width);
    expect(text).toContain("L2.head[3]");
  });
});

describe("what is compared", () => {
  test("a difference is paired by block: what both runs share cancels", () => {
    // Each block adds the same large amount to both edits, so only the difference is sharp.
    const wide = sweep([{ of: head(0, "zero"), mean: 1, sd: 2 }], 32);
    const shifted = wide.conditions.map((one) => ({
      ...one,
      condition: head(0, "mean"),
      sums: {
        nll: one.sums.nll?.map((sum, block) => sum + 255 * (0.01 + 0.001 * (block % 3))) as Float64Array,
      },
    }));
    const found = agree(plant(wide), plant({ baseline: wide.baseline, conditions: shifted }));
    const [pair] = found.pairs;
    expect(pair?.rows[0].se).toBeGreaterThan(0.3);
    expect(pair?.difference?.se).toBeLessThan(0.001);
    expect(pair).toMatchObject({ distinguishable: true });
  });

  test("blocks are matched by their tokens, not by their number", () => {
    // The second run saw the first run's blocks in the opposite order.
    const reversed = (one: ConditionMeasurements): ConditionMeasurements => ({
      ...one,
      sums: { nll: Float64Array.from(one.sums.nll ?? []).reverse() },
    });
    const first = plant(zero);
    const second = plant({
      baseline: reversed(zero.baseline),
      conditions: zero.conditions.map(reversed),
    });
    const swapped = { ...second, run: { ...second.run, evaluation: [...second.run.evaluation].reverse() } };
    for (const { difference } of agree(first, swapped).pairs) expect(difference?.ci95).toEqual([0, 0]);
    const misread = agree(first, second).pairs.map(({ difference }) => difference?.se ?? 0);
    expect(Math.max(...misread)).toBeGreaterThan(0.001);
  });

  test("a run agrees with itself: ρ 1, every difference 0, nothing distinguishable", () => {
    const found = agree(plant(zero), plant(zero));
    expect(found.ranking).toMatchObject({ rho: 1, ci95: null });
    for (const { difference, distinguishable } of found.pairs) {
      expect(difference).toMatchObject({ mean: 0, ci95: [0, 0] });
      expect(distinguishable).toBe(false);
    }
  });

  test("what is in one run only, failed or pending is counted and named", () => {
    const failed = measured(head(1, "mean"), [], { error: { code: "hook_failed", message: "x" } });
    const pending = measured(head(2, "mean"), []);
    const found = agree(
      plant(zero),
      plant({
        baseline: mean.baseline,
        conditions: [...mean.conditions.slice(3, 9), failed, pending, measured(skip(7), [3, 4])],
      }),
    );
    expect(found.pairs).toHaveLength(6);
    expect(found.unmeasured).toEqual(["L2.head[1]", "L2.head[2]"]);
    expect(found.alone[0]).toEqual([0, 9, 10, 11].map((index) => `L2.head[${index}].zero`));
    expect(found.alone[1]).toEqual(["L7.layer.skip"]);
    const text = cautions(found).join("\n");
    for (const name of ["L7.layer.skip", "L2.head[0].zero", "L2.head[1]", "4 conditions"]) {
      expect(text).toContain(name);
    }
  });

  test("the same id first; a site that a run edits twice is not guessed", () => {
    const both = [head(0, "zero"), head(0, "mean"), head(1, "zero"), head(1, "zero", "not_first")];
    const other = [head(0, "zero"), head(1, "mean"), head(4, "mean")];
    const effects = (of: Condition[]) =>
      sweep(
        of.map((one, index) => ({ of: one, mean: index, sd: 0.1 })),
        32,
      );
    const found = agree(plant(effects(both)), plant(effects(other)));
    expect(found.pairs.map(({ site }) => site)).toEqual(["L2.head[0].zero"]);
    expect(found.alone).toEqual([
      ["L2.head[0].mean", "L2.head[1].zero", "L2.head[1].zero@not_first"],
      ["L2.head[1].mean", "L2.head[4].mean"],
    ]);
  });
});

describe("runs that were not measured alike", () => {
  test("keys that differ are named with both values; without a common block nothing is subtracted", () => {
    const identity = { "config.eval.seq_len": "256", weights: "a".repeat(64), "numerics.dtype": '"float32"' };
    const found = agree(
      plant({ ...zero, identity }),
      plant({
        ...mean,
        identity: { ...identity, "config.eval.seq_len": "64", "numerics.dtype": '"bfloat16"' },
        facts: { text: "code.txt" },
      }),
    );
    expect(found.differing.map(({ key }) => key)).toEqual(["config.eval.seq_len", "numerics.dtype"]);
    expect(found).toMatchObject({ unpaired: "blocks", shared_blocks: 0 });
    for (const pair of found.pairs)
      expect(pair).toMatchObject({ difference: null, q: null, distinguishable: null });
    expect(found.pairs[0]?.site).toBe("L2.head[3]");
    const text = cautions(found).join("\n");
    expect(text).toContain("config.eval.seq_len (run-");
    expect(text).toMatch(/256.*64.*numerics\.dtype.*float32.*bfloat16/);
    expect(text).toContain("no two blocks in common");
  });

  test("files of the model that 0.1.0's digests do not see are named, where both runs have them stored", () => {
    const template = (sha256: string) => [{ name: "chat_template.jinja", sha256, stamp: "1 2 3 4" }];
    const seen = (sha256: string) => ({
      model: { directory: "/m", entries_sha256: "e".repeat(64), files: template(sha256) },
      inputs: {},
    });
    const [a, b] = ["a", "b"].map((digit) => digit.repeat(64)) as [string, string];
    const weights = { weights: a };
    const differing = (...runs: { seen?: Seen; identity: Identity }[]) => {
      const [one, other] = runs.map((run) => plant({ ...zero, ...run })) as [NamedRun, NamedRun];
      return agree(one, other).differing.map(({ key, values }) => [key, ...values]);
    };
    expect(differing({ seen: seen(a), identity: weights }, { seen: seen(b), identity: weights })).toEqual([
      ["file chat_template.jinja", "a".repeat(12), "b".repeat(12)],
    ]);
    expect(differing({ seen: seen(a), identity: weights }, { identity: weights })).toEqual([]);
    const other = { seen: seen(b), identity: { weights: b } };
    expect(differing({ seen: seen(a), identity: weights }, other).map(([key]) => key)).toEqual(["weights"]);
  });

  test("what a comparison is about is no difference", () => {
    const identity = { "config.ablation.mode": '"zero"', conditions: "1", "calibration blocks": "2" };
    const other = { "config.ablation.mode": '"mean"', conditions: "3", "calibration blocks": "4" };
    expect(agree(plant({ ...zero, identity }), plant({ ...mean, identity: other })).differing).toEqual([]);
  });

  test("differently built models are refused, and runs without a common condition", () => {
    expect(() => agree(plant(zero), plant({ ...mean, n_layers: 7 }))).toThrow(/n_layers: 0 and 7/);
    const layers = sweep([{ of: skip(0), mean: 1, sd: 0.1 }], 32);
    expect(() => agree(plant(zero), plant(layers))).toThrow("no condition in common");
    const nothing = { baseline: zero.baseline, conditions: [measured(head(0, "mean"), [])] };
    expect(() => agree(plant(zero), plant(nothing))).toThrow("no condition measured in both");
  });

  test("a race gives no differences, and ranks by its places", () => {
    const race = { top: 2, confidence: 0.95, tolerance: 0.001, conditions: COUNT, rounds: [16, 32] };
    const found = agree(
      plant({ ...zero, facts: { statistics: { correction: "bh", floor: null, race } } }),
      plant(mean),
    );
    expect(found).toMatchObject({ unpaired: "race", halves: [null, null] });
    expect(cautions(found).join("\n")).toContain("stop:");
  });
});

test("runs whose directories share a name get a picture for each two", async () => {
  const runs = [plant(zero), plant(mean), plant(mean)].map((run, index) => {
    const directory = join(scratch, `model-${index}`, "heads");
    mkdirSync(dirname(directory), { recursive: true });
    renameSync(run.directory, directory);
    return { ...run, directory, name: `model-${index}/heads` };
  }) as [NamedRun, NamedRun, NamedRun];
  const [a, b, c] = runs;
  const { plots, page } = await writeAgreement(runs, [agree(a, b), agree(a, c), agree(b, c)]);
  expect(new Set(plots).size).toBe(3);
  expect(readdirSync(join(a.directory, "plots")).sort()).toEqual(plots.map((path) => basename(path)).sort());
  expect(dirname(page)).toBe(a.directory);
});

describe.skipIf(!hasBrowser)(inBrowser, () => {
  test("the page sorts and filters the disagreements, and its scatter tells both values", {
    timeout: 60_000,
  }, async () => {
    const [a, b] = [plant(zero), plant(mean)];
    const { page: path } = await writeAgreement([a, b], [agree(a, b)]);
    await using browser = await launchBrowser();
    const check = async (page: Page) => {
      const first = page.locator("#ranking tbody tr:first-child td:nth-child(3)");
      expect(await first.textContent()).toBe("L2.head[3]");
      await page.getByRole("button", { name: `rank ${a.letter}` }).click();
      expect(await first.textContent()).toBe("L2.head[11]");
      await page.getByLabel("only distinguishable").check();
      expect(await page.locator("#count").textContent()).toBe(`1 of ${COUNT} conditions shown`);
      // What is distinguishable is drawn last.
      const shown = await hoverText(page, 0, COUNT - 1);
      expect(shown).toMatch(/^L2\.head\[3\]\n.* \+0\.40\d* .*rank 9\n.* \+0\.02\d* .*rank 12\n/);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow).toBeLessThanOrEqual(0);
    };
    for (const width of [1200, 390]) await visit(browser, `file://${path}`, { width, check });
  });
});

describe("on the command line", () => {
  const MAIN = fileURLToPath(new URL("../../../src/cli/main.ts", import.meta.url));
  const report = (...args: string[]) =>
    execa(process.execPath, [MAIN, "report", ...args], { reject: false, env: { NO_COLOR: "1" } });

  test("table, pictures and page; --json and CSV with the same digits", async () => {
    const [a, b] = [plant(zero), plant(mean)];
    const table = await report(a.directory, b.directory);
    expect(table.exitCode).toBe(0);
    expect(table.stdout).toContain("Spearman ρ 0.958");
    expect(table.stderr.split("\n")).toEqual([
      `plot: ${join(a.directory, "plots", `agreement-${a.name}-${b.name}.png`)}`,
      `page: ${join(a.directory, `agreement-with-${b.name}.html`)}`,
    ]);
    expect(readdirSync(b.directory).filter((name) => !name.startsWith("results"))).toEqual([]);
    const json = JSON.parse((await report(a.directory, b.directory, "--json", "--no-plots")).stdout);
    const [first] = json.comparisons[0].pairs;
    expect(json.comparisons[0].ranking.rho).toBeCloseTo(0.958, 3);
    const csv = (await report(a.directory, b.directory, "--format", "csv", "--no-plots")).stdout;
    const [header = "", line = ""] = csv.split("\r\n");
    const cells = Object.fromEntries(header.split(",").map((name, at) => [name, line.split(",")[at]]));
    expect(cells).toMatchObject({
      site: first.site,
      a_delta_nll: String(first.a.delta_nll),
      difference: String(first.difference),
      ci95_low: String(first.ci95[0]),
      q: String(first.q),
    });
    expect(readFileSync(join(a.directory, `agreement-with-${b.name}.html`), "utf8")).toContain(
      String(first.difference),
    );
  });

  test("three runs are compared in pairs; the same directory twice is refused", async () => {
    const runs = [plant(zero), plant(mean), plant(zero)];
    const directories = runs.map(({ directory }) => directory);
    const { stdout } = await report(...directories, "--json", "--no-plots");
    expect(JSON.parse(stdout).comparisons.map(({ a, b }: { a: string; b: string }) => a + b)).toEqual([
      "AB",
      "AC",
      "BC",
    ]);
    const link = join(scratch, "link");
    symlinkSync(directories[0] as string, link);
    const twice = await report(directories[0] as string, link);
    expect(twice).toMatchObject({ exitCode: 2, stdout: "" });
    expect(twice.stderr).toContain("the same directory");
    const confirm = await report(...directories, "--confirm", "3");
    expect(confirm.exitCode).toBe(2);
    expect(confirm.stderr).toContain("--confirm cannot be combined with several directories");
  });
});
