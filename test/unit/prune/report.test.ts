/** The page's words and the chart's positions, from a path that is written down. */
import { expect, it } from "vitest";
import type { PathStep } from "../../../src/prune/path.ts";
import type { Pruned } from "../../../src/prune/prune.ts";
import type { FinishedSearch } from "../../../src/prune/read.ts";
import { searchChart } from "../../../src/prune/report/chart.ts";
import { cautions, renderSearchPage, resultSentence } from "../../../src/prune/report/page.ts";

const texts = ["/a/novel.txt", "/b/code.txt"];
const step = (size: number, effects: readonly number[], nested = true): PathStep => ({
  size,
  removed: Array.from({ length: size }, (_, layer) => `L${layer}.layer.skip`),
  selection_delta_nll: 123.456,
  nested,
  refusal: null,
  weights: { parameters: 2_000_000 - 100_000 * size, bytes: 4 * (2_000_000 - 100_000 * size) },
  held_out: texts.map((text, index) => {
    const delta_nll = effects[index] as number;
    const ends = { ci95: [delta_nll - 0.01, delta_nll + 0.01] as const, upper95: delta_nll + 0.008 };
    return { text, blocks: 16, delta_nll, se: 0.005, ...ends, repeats: false, left_out: 0 };
  }),
  nll: texts.map((text) => ({ text, nll: 3, ci95: [2.9, 3.1] })),
});
const found: Pruned = {
  unit: "layers",
  texts,
  target: { max_delta_nll: 0.06 },
  unedited: { weights: { parameters: 2_000_000, bytes: 8_000_000 }, nll: step(1, [0, 0]).nll },
  steps: [step(1, [0.01, 0.02]), step(2, [0.03, 0.05]), step(3, [0.06, 0.1], false)],
  chosen: 2,
  reached: true,
  unsettled: 1,
  passes: { search: 10, one_a_candidate: 40 },
  disagreement: { from_size: 3, most: "/b/code.txt", least: "/a/novel.txt" },
  checkpoint: null,
};
const settings = { seq_len: 32, blocks: 16, held_out_blocks: 16, batch_size: 4, seed: 0, calibration: null };
const facts = {
  ...{ model: "tiny", revision: null, weights_sha256: "0".repeat(64), version: "1" },
  numerics: { dtype: "float32", device: "cpu" },
} as FinishedSearch["facts"];
const search = (changed: Partial<Pruned> = {}) => ({ found: { ...found, ...changed }, settings, facts });

it("puts every step of each text at its parameters, and the unedited model at 0", () => {
  const chart = searchChart(search());
  const code = chart?.points.filter(({ line }) => line === 1);
  expect(code?.map(({ x, y }) => [x, y])).toEqual([
    [1_700_000, 0.1],
    [1_800_000, 0.05],
    [1_900_000, 0.02],
    [2_000_000, 0],
  ]);
  expect(code?.map(({ chosen }) => chosen)).toEqual([false, true, false, false]);
  expect(code?.[0]?.low).toBeCloseTo(0.09, 12);
  expect(code?.[0]?.high).toBeCloseTo(0.11, 12);
  expect(chart?.lines).toEqual(["novel.txt", "code.txt"]);
  expect(chart?.limit).toEqual({ at: 0.06, label: "at most 0.06 was asked for" });
  const { min, max, ticks } = chart?.across ?? { min: 0, max: 0, ticks: [] };
  expect(min).toBeLessThan(1_700_000);
  expect(max).toBeGreaterThan(2_000_000);
  expect(ticks.map(({ at }) => at).every((at) => at >= min && at <= max)).toBe(true);
  expect(ticks.find(({ at }) => Math.abs(at - 1_900_000) < 1)?.label).toBe("1.9");
});

it("counts what is removed where parameters are not known", () => {
  const steps = found.steps.map((one) => ({ ...one, weights: null }));
  const chart = searchChart(search({ steps, unedited: { nll: [], weights: null } }));
  expect(chart?.points.filter(({ line }) => line === 0).map(({ x }) => x)).toEqual([-3, -2, -1, 0]);
  expect(chart?.x).toBe("layers removed (−)");
});

it("says where sets are not nested and from where texts disagree, and shows no selection numbers", () => {
  expect(cautions(found)).toEqual([
    expect.stringContaining("never results"),
    expect.stringContaining("not proved to be the best"),
    "Not every set grows out of the one before: the set of size 3 does not hold that of 2.",
    "The texts disagree from 3 removed on: code.txt suffers more than novel.txt.",
  ]);
  expect(cautions({ ...found, steps: found.steps.slice(0, 2), disagreement: null })).toHaveLength(2);
  const page = [...renderSearchPage(search())].join("");
  expect(page).not.toContain("123.456");
  expect(page).toContain("+0.0500 [+0.0400, +0.0600]");
  expect(page).not.toContain("mean write");
  const constant = { ...search(), settings: { ...settings, calibration: "/c/other.txt" } };
  expect([...renderSearchPage(constant)].join("")).toContain("its mean write over /c/other.txt");
});

it("says what was asked for and what came of it", () => {
  const written = "Written: the model without 2 of its layers.";
  expect(resultSentence(found)).toBe(`Asked for: a Δ NLL of at most 0.06 on every text. ${written}`);
  expect(resultSentence({ ...found, chosen: null })).toContain("nothing was written");
  expect(resultSentence({ ...found, steps: [], chosen: null })).toContain("Nothing could be removed");
  const small = { ...found, target: { target_params: 1_800_000 } };
  expect(resultSentence(small)).toContain("Asked for: at most 1,800,000 parameters. Written");
  const far = { ...found, target: { remove: 9 }, chosen: 3, reached: false };
  expect(resultSentence(far)).toContain("Out of reach; written: the model without 3 of its layers.");
});

it("draws nothing where no step was found", () => {
  expect(searchChart(search({ steps: [], chosen: null }))).toBeNull();
  expect([...renderSearchPage(search({ steps: [], chosen: null, unedited: null }))].join("")).toContain(
    "Nothing could be removed",
  );
});

it("says which text's numbers are no test", () => {
  const [first] = found.steps as [PathStep];
  const repeated = first.held_out.map((effect, index) => ({ ...effect, repeats: index === 1 }));
  const said = cautions({ ...found, steps: [{ ...first, held_out: repeated }] });
  expect(said).toContain(
    "All held-out blocks of code.txt repeat text that chose: its numbers are no independent measurement.",
  );
  const fewer = first.held_out.map((effect, index) => ({ ...effect, left_out: index === 0 ? 3 : 0 }));
  expect(cautions({ ...found, steps: [{ ...first, held_out: fewer }] })).toContain(
    "Left out, since they repeat text that chose: 3 held-out blocks of novel.txt.",
  );
  expect(cautions(found).join()).not.toContain("repeat");
});
