/** What joint conditions do beyond the sum of their parts. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import Database from "better-sqlite3";
import { describe, expect, it } from "vitest";
import { canonical, conditionId } from "../../../src/conditions/ids.ts";
import type { Condition, Intervention } from "../../../src/protocol/messages.ts";
import { toCsv, toMarkdown } from "../../../src/report/formats.ts";
import { interactionMatrix } from "../../../src/report/interaction-matrix.ts";
import { renderPng } from "../../../src/report/png.ts";
import { renderTable } from "../../../src/report/table.ts";
import { JointEffects, partsOf } from "../../../src/results/interactions.ts";
import { rankInteractions } from "../../../src/results/ranking.ts";
import { type ConditionMeasurements, DOUBTS, type Row } from "../../../src/results/row.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { interactionEffect, pairedEffect } from "../../../src/statistics/effects.ts";
import { adjust } from "../../../src/statistics/multiplicity.ts";
import { RunDirectory, readRun } from "../../../src/store/run-directory.ts";
import { databasePath } from "../../../src/store/sqlite.ts";
import { scratch } from "../../fixtures/harness.ts";
import { condition, facts, head, measured, pageText, TOKENS } from "../planted.ts";
import { plantRun } from "../planted-run.ts";
import { normals } from "../statistics/random.ts";

const SETTINGS = { correction: "bh", floor: null } as const;

function joint(...parts: readonly Condition[]): Condition {
  const interventions = canonical(parts.flatMap(({ interventions: edits }) => edits));
  return condition(conditionId(interventions), ...interventions);
}

const mlp = (layer: number): Condition =>
  condition(`L${layer}.mlp.zero`, { kind: "mlp", layer, mode: "zero", positions: "all" });

const partsOfAll = (...conditions: readonly Condition[]) => Object.fromEntries(partsOf(() => conditions));

it("keeps eight bytes a block of each condition, or little more: pairs are many", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const [parts, blocks] = [12_000, 128];
  const single = Array.from({ length: 2 }, (_, index) => head(0, index));
  const ids = Array.from({ length: parts }, (_, index) => `pair ${index}`);
  const kept = new JointEffects(new Map(ids.map((id) => [id, single.map((one) => one.id)])));
  const one = measured(
    single[0] as Condition,
    Array.from({ length: blocks }, () => 1),
  );
  const used = (): number => {
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  const before = used();
  for (const id of ids) kept.add({ ...one, condition: { id, interventions: [] } });
  expect((used() - before) / (parts * blocks)).toBeLessThan(16);
  expect(kept.estimates(one).size).toBe(parts);
});

describe("the parts of a joint condition", () => {
  const [a, b, c] = [head(1, 3), head(1, 7), mlp(4)];

  it("are its heads where each was measured alone, else its interventions", () => {
    expect(partsOfAll(joint(a, b), b, a)).toEqual({ [joint(a, b).id]: [a.id, b.id] });
    expect(partsOfAll(a, c, joint(a, c))).toEqual({ [joint(a, c).id]: [a.id, c.id] });
    const all = joint(a, b, c);
    expect(partsOfAll(a, b, c, all)).toEqual({ [all.id]: [a.id, b.id, c.id] });
    expect(partsOfAll(joint(a, b), c, all)).toEqual({ [all.id]: [joint(a, b).id, c.id] });
  });

  it("are key/value groups one by one", () => {
    const group = (...groups: number[]): Condition => {
      const edit: Intervention = { kind: "kv_group", layer: 0, groups, mode: "mean", positions: "not_first" };
      return condition(conditionId([edit]), edit);
    };
    expect(partsOfAll(group(0), group(1), group(0, 1))).toEqual({
      "L0.kv_group[0,1].mean@not_first": ["L0.kv_group[0].mean@not_first", "L0.kv_group[1].mean@not_first"],
    });
  });

  it("must all be in the run, with the same mode", () => {
    expect(partsOfAll(joint(a, b), a)).toEqual({});
    expect(partsOfAll(joint(a, b))).toEqual({});
    const mean: Intervention = { kind: "head", layer: 1, heads: [7], mode: "mean", positions: "all" };
    expect(partsOfAll(joint(a, b), a, condition(conditionId([mean]), mean))).toEqual({});
  });
});

describe("the estimate", () => {
  const normal = normals(5);
  const sums = (): Float64Array => Float64Array.from({ length: 32 }, () => 700 + 40 * normal());
  const [ab, a, b, baseline] = [sums(), sums(), sums(), sums()] as const;

  it("is the effect of the one part's successor, where there is one part", () => {
    const [ours, theirs] = [interactionEffect(ab, [a], baseline, TOKENS), pairedEffect(ab, a, TOKENS)];
    for (const key of ["mean", "se", "p", "skewness"] as const)
      expect(ours[key]).toBeCloseTo(theirs[key] as number, 10);
    expect(ours.ci95?.[0]).toBeCloseTo(theirs.ci95?.[0] as number, 10);
  });

  it("is 0 up to rounding where a part is the baseline, and exactly where effects add up", () => {
    const none = interactionEffect(a, [a, baseline], baseline, TOKENS);
    expect(none).toMatchObject({ mean: 0, ci95: [0, 0], p: 1 });
  });

  it("does not depend on the order of its parts", () => {
    const [one, other] = [
      [a, b],
      [b, a],
    ].map((parts) => interactionEffect(ab, parts, baseline, TOKENS));
    expect(one?.mean).toBeCloseTo(other?.mean as number, 12);
    expect(one?.p).toBeCloseTo(other?.p as number, 10);
  });
});

/** Heads 0 to 3: 0 and 1 back each other up, 2 and 3 stand in line, the other pairs add up. */
function planted(blocks = 32) {
  const normal = normals(11);
  const levels = Array.from({ length: blocks }, () => 3 + 0.3 * normal());
  const heads = [0, 1, 2, 3].map((index) => head(0, index));
  const alone = [0.001, 0.001, 0.4, 0.4];
  const beyond: Record<string, number> = { "0,1": 0.8, "2,3": -0.35 };
  const noisy = (mean: number) => levels.map((level) => level + mean + 0.02 * normal());
  const conditions: ConditionMeasurements[] = heads.map((one, index) =>
    measured(one, noisy(alone[index] as number)),
  );
  for (const [i, first] of heads.entries()) {
    for (const [j, second] of heads.entries()) {
      if (j <= i) continue;
      const mean = (alone[i] as number) + (alone[j] as number) + (beyond[`${i},${j}`] ?? 0);
      conditions.push(measured(joint(first, second), noisy(mean)));
    }
  }
  return { baseline: measured(condition("baseline"), levels), conditions };
}

function rowsOf(
  { baseline, conditions }: ReturnType<typeof planted>,
  settings: Parameters<typeof buildRows>[2] = SETTINGS,
): Row[] {
  return buildRows(
    baseline,
    conditions,
    settings,
    partsOf(() => conditions.map((one) => one.condition)),
  );
}

const interactionOf = (rows: readonly Row[], id: string) =>
  rows.find((row) => row.condition === id)?.interaction;

describe("rows", () => {
  const rows = rowsOf(planted());

  it("find what backs up what, and what stands in line", () => {
    const { effect, ci95, parts, distinguishable } = interactionOf(rows, "L0.head[0,1].zero") ?? {};
    expect(parts).toEqual(["L0.head[0].zero", "L0.head[1].zero"]);
    expect(effect).toBeCloseTo(0.8, 1);
    expect(ci95?.[0]).toBeGreaterThan(0.7);
    expect(distinguishable).toBe(true);
    expect(interactionOf(rows, "L0.head[2,3].zero")).toMatchObject({ distinguishable: true, flags: [] });
    expect(interactionOf(rows, "L0.head[2,3].zero")?.effect).toBeCloseTo(-0.35, 1);
    expect(interactionOf(rows, "L0.head[0].zero")).toBeNull();
    expect(interactionOf(rows, "baseline")).toBeNull();
  });

  it("adjust the interactions as a family of their own", () => {
    const all = rankInteractions(rows).map(({ interaction }) => interaction);
    expect(all).toHaveLength(6);
    expect(all.map(({ q }) => q)).toEqual(adjust(all.map(({ p }) => p)));
    const effects = rows.slice(1);
    expect(effects.map(({ q }) => q)).toEqual(adjust(effects.map(({ p }) => p)));
  });

  it("doubt few blocks, and what rounding of k + 1 effects could do", () => {
    for (const { interaction } of rankInteractions(rowsOf(planted(15))))
      expect(interaction).toMatchObject({ flags: [DOUBTS.fewBlocks], distinguishable: false, blocks: 15 });
    const size = Math.abs(interactionOf(rows, "L0.head[2,3].zero")?.effect ?? 0);
    for (const [rms, floored] of [
      [size / 3 / Math.sqrt(3) / 1.01, false],
      [size / 3 / Math.sqrt(3) / 0.99, true],
    ] as const) {
      const { flags, distinguishable } =
        interactionOf(rowsOf(planted(), { ...SETTINGS, floor: { rms, mean: 0 } }), "L0.head[2,3].zero") ?? {};
      expect(flags?.includes(DOUBTS.belowFloor)).toBe(floored);
      expect(distinguishable).toBe(!floored);
    }
  });

  it("use the blocks that the condition and all its parts have", () => {
    const { baseline, conditions } = planted();
    const [first] = conditions as [ConditionMeasurements];
    const half = {
      ...first,
      blocks: first.blocks.filter((block) => block % 2 === 1),
      sums: { nll: (first.sums.nll as Float64Array).filter((_, block) => block % 2 === 1) },
    };
    const partial = rowsOf({ baseline, conditions: [half, ...conditions.slice(1)] });
    expect(interactionOf(partial, "L0.head[0,1].zero")?.blocks).toBe(16);
    expect(interactionOf(partial, "L0.head[2,3].zero")).toEqual({
      ...interactionOf(rows, "L0.head[2,3].zero"),
      q: expect.any(Number),
    });
  });

  it("name the parts where one of them failed, and leave it out of the family", () => {
    const { baseline, conditions } = planted();
    const [first] = conditions as [ConditionMeasurements];
    const error = { code: "out_of_memory", message: "" } as const;
    const failed = rowsOf({ baseline, conditions: [{ ...first, error }, ...conditions.slice(1)] });
    const { parts, effect, q } = interactionOf(failed, "L0.head[0,1].zero") ?? {};
    expect([parts?.length, effect, q]).toEqual([2, null, null]);
    const measuredOnes = rankInteractions(failed).flatMap(({ interaction }) =>
      interaction.effect === null ? [] : [interaction],
    );
    expect(measuredOnes.map(({ q: one }) => one)).toEqual(adjust(measuredOnes.map(({ p }) => p)));
  });

  it("give none in a race, whose blocks the data choose", () => {
    const race = { top: 1, confidence: 0.95, tolerance: 0.01, conditions: 10, rounds: [16, 32] };
    for (const row of rowsOf(planted(), { ...SETTINGS, race })) expect(row.interaction).toBeNull();
  });
});

describe("files and reports", () => {
  const about = facts({ sweep: "pairs", planned_conditions: 10 });

  it("JSONL, SQLite and CSV say the same, to the last digit", () => {
    const path = scratch();
    const { baseline, conditions } = planted();
    plantRun(path, about, baseline, conditions);
    const directory = RunDirectory.open(path, false);
    directory.project();
    directory.close();
    const { rows } = readRun(path);
    expect(rows.map(({ interaction }) => interaction)).toEqual(
      rowsOf(planted()).map(({ interaction }) => interaction),
    );
    const [low, high] = rows[5]?.interaction?.ci95 ?? [];
    const text = readFileSync(join(path, "results.jsonl"), "utf8").trimEnd().split("\n");
    expect(JSON.parse(text[5] as string)).toMatchObject({
      condition: "L0.head[0,1].zero",
      parts: ["L0.head[0].zero", "L0.head[1].zero"],
      interaction: rows[5]?.interaction?.effect,
      interaction_ci95: [low, high],
      interaction_distinguishable: true,
      interaction_flags: [],
      interaction_blocks: 32,
    });
    expect(JSON.parse(text[1] as string)).not.toHaveProperty("interaction");
    const database = new Database(databasePath(path), { readonly: true });
    const stored = database.prepare("SELECT * FROM result WHERE interaction IS NOT NULL").all();
    database.close();
    expect(stored).toHaveLength(6);
    expect(stored[0]).toMatchObject({
      condition: "L0.head[0,1].zero",
      parts: "L0.head[0].zero; L0.head[1].zero",
      interaction: rows[5]?.interaction?.effect,
      interaction_ci95_low: low,
      interaction_ci95_high: high,
      interaction_distinguishable: 1,
    });
    expect(toCsv(rows, null)).toContain(`,L0.head[0].zero; L0.head[1].zero,${rows[5]?.interaction?.effect},`);
  });

  it("the report has a section, and the page columns and a matrix", () => {
    const rows = rowsOf(planted());
    const text = renderTable(rows, about, { top: 2, width: null, paint: (_, one) => one });
    expect(text).toContain("2 of 6 distinguishable from 0");
    expect(text).toContain("1 of them positive: there the parts back each other up");
    const section = text.slice(text.indexOf("Interactions: Δ NLL of a joint"));
    expect(section).toMatch(/\* {2}L0\.head\[0,1\]\.zero +\+0\.[78]\d+ /);
    expect(section).toMatch(/\* {2}L0\.head\[2,3\]\.zero +−0\.3\d+ /);
    expect(section).toContain("2 of 6 interactions shown.");
    expect(toMarkdown(rows, about, null)).toMatch(/\| \\\* \| L0\.head\[0,1\]\.zero \| \+0\.[78]/);
    const page = pageText(rows, about);
    expect(page).toContain('"title":"interaction"');
    expect(page).toContain("a family of their own");
    expect(page).toContain('"name":"interactions"');
  });

  it("the matrix is symmetric around an empty diagonal, and signs what is not distinguishable", () => {
    const matrix = interactionMatrix(rowsOf(planted()), about);
    if (matrix === null) throw new Error("no matrix");
    expect(matrix.columns.labels).toEqual([0, 1, 2, 3].map((index) => `L0.head[${index}]`));
    expect(matrix.cells).toHaveLength(16);
    const cell = (row: number, column: number) => matrix.cells[4 * row + column];
    for (const i of [0, 1, 2, 3]) {
      expect(cell(i, i)).toMatchObject({ at: null, mark: "untested" });
      for (const j of [0, 1, 2, 3]) expect(cell(i, j)?.at).toBe(cell(j, i)?.at);
    }
    expect(cell(0, 1)).toMatchObject({ mark: "distinguishable" });
    expect(cell(0, 1)?.at).toBeGreaterThan(0);
    expect(cell(2, 3)?.at).toBeLessThan(0);
    expect(cell(0, 2)).toMatchObject({ mark: "unmarked" });
    expect(renderPng(matrix).subarray(1, 4).toString()).toBe("PNG");
  });

  it("runs without joint conditions are as before", () => {
    const { baseline, conditions } = planted();
    const rows = buildRows(baseline, conditions.slice(0, 4), SETTINGS);
    expect(renderTable(rows, about, { top: null, width: null, paint: (_, one) => one })).not.toMatch(
      /interaction/i,
    );
    expect(interactionMatrix(rows, about)).toBeNull();
  });
});
