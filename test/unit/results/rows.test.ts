import { describe, expect, test } from "vitest";
import { surveyOf } from "../../../src/report/survey.ts";
import { begunRow } from "../../../src/results/columns.ts";
import { rowRecord } from "../../../src/results/layout.ts";
import { rankRows } from "../../../src/results/ranking.ts";
import { DOUBTS, HINTS, type Row } from "../../../src/results/row.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { condition, head, measured, skip, sweep, TOKENS } from "../planted.ts";

const SETTINGS = { correction: "bh", floor: null } as const;

function row(rows: readonly Row[], id: string): Row {
  const found = rows.find((candidate) => candidate.condition === id);
  if (found === undefined) throw new Error(`no row ${id}`);
  return found;
}

test("a renamed column stands under both names, each with its interval", () => {
  const of = { mean: 0.5, se: 0.1, ci95: [0.3, 0.7] as const };
  const blank = begunRow({ condition: { id: "baseline", interventions: [] }, flags: [], seconds: 0 });
  const record = rowRecord({ ...blank, metrics: { top1: of, kl: of } });
  for (const name of ["top1", "top1_changed", "kl"])
    expect([record[name], record[`${name}_se`], record[`${name}_ci95`]], name).toEqual([
      0.5,
      0.1,
      [0.3, 0.7],
    ]);
  expect(record).not.toHaveProperty("kl_changed");
});

describe("the items of a task", () => {
  const blocks = Array.from({ length: 20 }, (_, index) => index);
  const answers = blocks.map((block) => (block % 3) + 1);
  const task = (id: ReturnType<typeof condition>, shift: number) => ({
    ...measured(id, blocks),
    tokens: 1,
    answers,
    sums: {
      nll: Float64Array.from(blocks, (block) => 2 + Math.sin(block) + shift),
      logit_diff: Float64Array.from(blocks, (block) => Math.cos(block) - shift * (1 + block / 10)),
      accuracy: Float64Array.from(blocks, (block) => Number(block % 4 > shift)),
      kl: Float64Array.from(blocks, () => shift),
    },
  });
  const [baseline, edited] = [task(condition("baseline"), 0), task(skip(0), 1)];
  const rows = buildRows(baseline, [edited], SETTINGS);

  test("weigh the same, and their tokens are those of the answers", () => {
    const [first, second] = rows;
    const mean = (values: ArrayLike<number>) =>
      Array.from(values).reduce((sum, value) => sum + value, 0) / 20;
    expect(first?.nll).toBeCloseTo(mean(baseline.sums.nll), 12);
    expect(second?.delta_nll).toBeCloseTo(1, 12);
    expect(second).toMatchObject({ blocks: 20, tokens: answers.reduce((sum, count) => sum + count, 0) });
  });

  test("levels have their change beside them, paired item by item; distances have none", () => {
    const { logit_diff, delta_logit_diff, accuracy, delta_accuracy, ...rest } = rows[1]?.metrics ?? {};
    expect(Object.keys(rest)).toEqual(["kl"]);
    // The change is −1 − block / 10: its spread is that of block / 10 alone, its level's is the cosine's too.
    const sd = Math.sqrt(blocks.reduce((sum, block) => sum + (block / 10 - 0.95) ** 2, 0) / 19);
    expect(delta_logit_diff?.mean).toBeCloseTo(-1.95, 12);
    expect(delta_logit_diff?.se).toBeCloseTo(sd / Math.sqrt(20), 12);
    expect(logit_diff?.se).toBeGreaterThan(delta_logit_diff?.se ?? 0);
    expect([accuracy?.mean, delta_accuracy?.mean]).toEqual([0.5, -0.25]);
    expect(rows[0]?.metrics.delta_accuracy).toEqual({ mean: 0, se: null, ci95: null });
    expect(rowRecord(rows[1] as Row)).toHaveProperty("delta_accuracy_ci95");
  });

  test("items that the baseline lacks count in neither", () => {
    const part = blocks.slice(0, 7);
    const short = { ...baseline, blocks: part, sums: { nll: baseline.sums.nll.subarray(0, 7) } };
    const [, second] = buildRows(short, [edited], SETTINGS);
    expect(second).toMatchObject({
      blocks: 7,
      tokens: part.reduce((sum, block) => sum + (block % 3) + 1, 0),
    });
  });
});

describe("a complete sweep of 32 blocks", () => {
  const effects = [
    { of: skip(0), mean: 2, sd: 0.1 },
    { of: skip(1), mean: 0.001, sd: 0.1 },
    { of: skip(2), mean: -0.2, sd: 0.05 },
  ];
  const { baseline, conditions } = sweep(effects, 32);
  const rows = buildRows(baseline, conditions, SETTINGS);

  test("the columns, in the order of the contract", () => {
    expect(Object.keys(rowRecord(rows[1] as Row))).toEqual([
      "condition",
      "kind",
      "layer",
      "heads",
      "mode",
      "interventions",
      "status",
      "nll",
      "delta_nll",
      "se",
      "ci95",
      "p",
      "q",
      "distinguishable",
      "worse_blocks",
      "sign_p",
      "flags",
      "perplexity",
      "perplexity_ratio",
      "perplexity_ratio_ci95",
      "blocks",
      "tokens",
      "seconds",
      "error",
    ]);
  });

  test("the baseline comes first and is compared with nothing", () => {
    expect(rows[0]).toMatchObject({
      condition: "baseline",
      kind: "baseline",
      status: "done",
      delta_nll: 0,
      p: null,
      q: null,
      distinguishable: null,
      blocks: 32,
      tokens: 32 * TOKENS,
    });
  });

  test("the planted effects and errors come back", () => {
    for (const { of, mean, sd } of effects) {
      const { delta_nll, se, nll, perplexity_ratio } = row(rows, of.id);
      expect(delta_nll).toBeCloseTo(mean, 10);
      expect(se).toBeCloseTo(sd / Math.sqrt(32), 10);
      expect((nll as number) - (rows[0]?.nll as number)).toBeCloseTo(mean, 10);
      expect(perplexity_ratio).toBeCloseTo(Math.exp(mean), 8);
    }
  });

  test("clear effects of either sign are marked, noise is not", () => {
    expect(rows.map(({ distinguishable }) => distinguishable)).toEqual([null, true, false, true]);
    expect(surveyOf(rows).statistics).toMatchObject({
      conditions: 3,
      measured: 3,
      failed: 0,
      distinguishable: 2,
    });
  });

  test("ranked by harm", () => {
    expect(rankRows(rows).map(({ condition: id }) => id)).toEqual([
      "L0.layer.skip",
      "L1.layer.skip",
      "L2.layer.skip",
    ]);
  });
});

describe("doubts keep a condition from being marked", () => {
  test.each([
    { blocks: 15, flags: [DOUBTS.fewBlocks], marked: false },
    { blocks: 16, flags: [], marked: true },
  ])("$blocks blocks", ({ blocks, flags, marked }) => {
    const { baseline, conditions } = sweep([{ of: skip(0), mean: 3, sd: 0.1 }], blocks, 4);
    const [, only] = buildRows(baseline, conditions, SETTINGS);
    expect(only?.q).toBeLessThan(1e-6);
    expect(only?.flags).toEqual(flags);
    expect(only?.distinguishable).toBe(marked);
  });

  test("skewed block differences are a hint", () => {
    const levels = Array.from({ length: 32 }, (_, block) => 3 + 0.01 * block);
    const skewed = levels.map((level, block) => level + 0.5 + (block === 7 ? 0.4 : 0.001 * (block % 3)));
    const rows = buildRows(measured(condition("baseline"), levels), [measured(skip(0), skewed)], SETTINGS);
    expect(rows[1]).toMatchObject({
      flags: [HINTS.skewed],
      distinguishable: true,
      worse_blocks: "32 of 32",
      sign_p: 2 ** -31,
    });
    expect(surveyOf(rows).statistics).toMatchObject({ distinguishable: 1, doubted: 0, skewed: 1 });
  });

  test("one block that carries the whole effect is no evidence", () => {
    const levels = Array.from({ length: 32 }, (_, block) => 3 + 0.01 * block);
    const one = levels.map((level, block) => level + (block === 7 ? 8 : 0.01 * Math.sin(block)));
    const rows = buildRows(measured(condition("baseline"), levels), [measured(skip(0), one)], SETTINGS);
    expect(rows[1]).toMatchObject({ flags: [HINTS.skewed], distinguishable: false });
  });

  test("one block has no interval and says so", () => {
    const rows = buildRows(measured(condition("baseline"), [3]), [measured(skip(0), [9])], SETTINGS);
    expect(rows[1]).toMatchObject({
      delta_nll: expect.closeTo(6, 10),
      se: null,
      ci95: null,
      p: null,
      q: null,
      perplexity_ratio_ci95: null,
      distinguishable: false,
      flags: [DOUBTS.oneBlock, DOUBTS.fewBlocks],
    });
  });

  test("effects that rounding alone could make", () => {
    const { baseline, conditions } = sweep(
      [
        { of: skip(0), mean: 0.0029, sd: 1e-4 },
        { of: skip(1), mean: -0.0031, sd: 1e-4 },
      ],
      32,
    );
    const rows = buildRows(baseline, conditions, { correction: "bh", floor: { rms: 0.001, mean: 0 } });
    expect(rows.slice(1).map(({ flags, distinguishable }) => [flags, distinguishable])).toEqual([
      [[DOUBTS.belowFloor], false],
      [[], true],
    ]);
  });

  test("an edit that changes nothing is exactly nothing", () => {
    const levels = Array.from({ length: 20 }, (_, block) => 3 + 0.01 * block);
    const [, only] = buildRows(
      measured(condition("baseline"), levels),
      [measured(skip(0), levels)],
      SETTINGS,
    );
    expect(only).toMatchObject({
      delta_nll: 0,
      se: 0,
      ci95: [0, 0],
      p: 1,
      q: 1,
      distinguishable: false,
      flags: [],
    });
  });
});

describe("what is not there", () => {
  const levels = Array.from({ length: 32 }, (_, block) => 3 + Math.sin(block));
  const baseline = measured(condition("baseline"), levels);

  test("a failed condition has nulls and its code, and does not count among the tests", () => {
    const good = measured(
      skip(1),
      levels.map((level, block) => level + 0.01 + 0.02 * Math.cos(block)),
    );
    const failed = measured(skip(0), [], { error: { code: "nonfinite_logits", message: "NaN" } });
    const rows = buildRows(baseline, [failed, good], SETTINGS);
    expect(rows[1]).toMatchObject({
      status: "failed",
      error: "nonfinite_logits",
      nll: null,
      delta_nll: null,
      q: null,
    });
    expect(rows[2]?.q).toBe(buildRows(baseline, [good], SETTINGS)[1]?.q);
    expect(rankRows(rows).at(-1)?.condition).toBe("L0.layer.skip");
  });

  test("numbers that are not finite never reach a row", () => {
    const [, only] = buildRows(
      baseline,
      [
        measured(
          skip(0),
          levels.map((level, block) => (block === 3 ? Number.NaN : level)),
        ),
      ],
      SETTINGS,
    );
    expect(only).toMatchObject({ status: "failed", error: "nonfinite_logits", delta_nll: null });
  });

  test("not measured yet", () => {
    expect(buildRows(baseline, [measured(skip(0), [])], SETTINGS)[1]).toMatchObject({
      status: "pending",
      delta_nll: null,
      blocks: 0,
    });
  });

  test("some blocks only: compared with the baseline of those blocks", () => {
    const blocks = [3, 4, 9, 20];
    const means = blocks.map((block) => (levels[block] as number) + 0.5);
    const [, only] = buildRows(baseline, [measured(skip(0), means, { blocks })], SETTINGS);
    expect(only).toMatchObject({ status: "partial", blocks: 4, tokens: 4 * TOKENS });
    expect(only?.delta_nll).toBeCloseTo(0.5, 12);
    const subset = blocks.map((block) => levels[block] as number);
    expect(only?.nll).toBeCloseTo(subset.reduce((a, b) => a + b) / 4 + 0.5, 12);
  });

  test("a baseline on fewer blocks than the condition", () => {
    const early = measured(condition("baseline"), levels.slice(0, 8));
    const [, only] = buildRows(early, [measured(skip(0), levels)], SETTINGS);
    expect(only).toMatchObject({ status: "done", blocks: 8, delta_nll: 0 });
  });
});

test("a metric's columns: mean a token, error and interval, before `error`", () => {
  const levels = Array.from({ length: 16 }, (_, block) => 3 + 0.1 * block);
  const kl = Float64Array.from(levels, (_, block) => TOKENS * (block % 2 === 0 ? 0.1 : 0.3));
  const sums = { nll: Float64Array.from(levels, (level) => level * TOKENS), kl };
  const [, only] = buildRows(
    measured(condition("baseline"), levels),
    [measured(skip(0), levels, { sums })],
    SETTINGS,
  );
  const record = rowRecord(only as Row);
  expect(Object.keys(record).slice(-5)).toEqual(["seconds", "kl", "kl_se", "kl_ci95", "error"]);
  expect(record.kl).toBeCloseTo(0.2, 12);
  // Eight values at ±0.1 around the mean each way: sd = 0.1 √(16/15).
  expect(record.kl_se).toBeCloseTo((0.1 * Math.sqrt(16 / 15)) / 4, 12);
});

describe("with stop:", () => {
  const plan = { top: 2, confidence: 0.95, tolerance: 0.001, conditions: 4, rounds: [16, 32] };
  const { baseline, conditions } = sweep(
    [
      { of: skip(0), mean: 0.1, sd: 0.002 },
      { of: skip(1), mean: 0.9, sd: 0.01 },
      { of: skip(2), mean: 0.5, sd: 0.01 },
      { of: skip(3), mean: 0.2, sd: 0.002 },
    ],
    32,
  );
  /** As a race would have measured them: all decided after 16 blocks. */
  const early = conditions.map((entry) => ({
    ...entry,
    blocks: entry.blocks.slice(0, 16),
    sums: { nll: (entry.sums.nll as Float64Array).slice(0, 16) },
  }));
  const rows = buildRows(baseline, early, { ...SETTINGS, race: plan });

  test("no tests, wider intervals, and the top is flagged and ranked first", () => {
    expect(rankRows(rows).map(({ condition: id, flags }) => [id, flags])).toEqual([
      ["L1.layer.skip", ["in the top"]],
      ["L2.layer.skip", ["in the top"]],
      ["L3.layer.skip", []],
      ["L0.layer.skip", []],
    ]);
    const alone = buildRows(baseline, early, SETTINGS);
    for (const [index, each] of rows.slice(1).entries()) {
      expect(each).toMatchObject({ p: null, q: null, distinguishable: null, status: "stopped", blocks: 16 });
      expect(each.ci95?.[0]).toBeLessThan(alone[index + 1]?.ci95?.[0] as number);
      expect(each.ci95?.[1]).toBeGreaterThan(alone[index + 1]?.ci95?.[1] as number);
    }
    expect(rowRecord(rows[1] as Row)).not.toHaveProperty("standing");
  });

  test("a race for the smallest flags them and ranks them first", () => {
    const { top: bottom, ...rest } = plan;
    const found = buildRows(baseline, early, { ...SETTINGS, race: { ...rest, bottom } });
    expect(rankRows(found).map(({ condition: id, flags }) => [id, flags])).toEqual([
      ["L0.layer.skip", ["in the bottom"]],
      ["L3.layer.skip", ["in the bottom"]],
      ["L2.layer.skip", []],
      ["L1.layer.skip", []],
    ]);
  });

  test("before the first round ends nothing is in the top", () => {
    const partial = early.map((entry, index) =>
      index === 0
        ? {
            ...entry,
            blocks: entry.blocks.slice(0, 8),
            sums: { nll: (entry.sums.nll as Float64Array).slice(0, 8) },
          }
        : entry,
    );
    const unfinished = buildRows(baseline, partial, { ...SETTINGS, race: plan });
    expect(unfinished.flatMap(({ flags }) => flags)).toEqual([DOUBTS.fewBlocks]);
    expect(unfinished.slice(1).every(({ status }) => status === "partial")).toBe(true);
  });
});

test("100,000 conditions", { timeout: 120_000 }, () => {
  const levels = Array.from({ length: 32 }, (_, block) => 3 + Math.sin(block));
  function* many() {
    for (let index = 0; index < 100_000; index++) {
      yield measured(
        head(index % 80, index),
        levels.map((level, block) => level + 0.01 * Math.cos(block * (index + 1))),
      );
    }
  }
  const start = performance.now();
  const rows = buildRows(measured(condition("baseline"), levels), many(), SETTINGS);
  expect(rankRows(rows)).toHaveLength(100_000);
  // By hand 2 s; the limit is thirty times that, since others may be at work.
  expect(performance.now() - start).toBeLessThan(60_000);
});
