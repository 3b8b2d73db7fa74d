import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import cdf from "@stdlib/stats-base-dists-t-cdf";
import { afterAll, describe, expect, test } from "vitest";
import type { Condition } from "../../../src/protocol/messages.ts";
import type { Heatmap } from "../../../src/report/chart.ts";
import { chartsFor } from "../../../src/report/charts.ts";
import { headline } from "../../../src/report/headline.ts";
import { auditModes, type ModeAudit, type SiteAudit } from "../../../src/report/modes/audit.ts";
import { auditMarkdown, auditRecord, auditTable } from "../../../src/report/modes/formats.ts";
import { finding } from "../../../src/report/modes/words.ts";
import type { RunFacts } from "../../../src/results/facts.ts";
import { estimate } from "../../../src/statistics/effects.ts";
import { adjust } from "../../../src/statistics/multiplicity.ts";
import { readBlockRun } from "../../../src/store/block-run.ts";
import { condition, type Effect, facts, pageText, skip, sweep, TOKENS } from "../planted.ts";
import { plantRun } from "../planted-run.ts";

const scratch = mkdtempSync(join(tmpdir(), "modes-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const head = (index: number, mode: "zero" | "mean"): Condition =>
  condition(`L2.head[${index}].${mode}`, { kind: "head", layer: 2, heads: [index], mode, positions: "all" });

let planted = 0;
function plant(effects: readonly Effect[], more: Partial<RunFacts> = {}, blocks = 32) {
  const directory = join(scratch, `run-${planted++}`);
  const { baseline, conditions } = sweep(effects, blocks);
  const about = facts({ sweep: "heads", planned_conditions: conditions.length, ...more });
  plantRun(directory, about, baseline, conditions);
  return { run: readBlockRun(directory), baseline, conditions };
}
const both = (index: number, zero: [number, number], mean: [number, number]): Effect[] => [
  { of: head(index, "zero"), mean: zero[0], sd: zero[1] },
  { of: head(index, "mean"), mean: mean[0], sd: mean[1] },
];

/** Heads by what they are planted to be. */
const EFFECTS = [
  ...both(0, [0.5, 0.05], [0.0001, 0.05]), // a constant: worth something under zero alone
  ...both(1, [0.5, 0.05], [0.49, 0.05]), // the same in both
  ...both(2, [0.8, 0.05], [0.2, 0.05]), // real in both, of another size
  ...both(3, [0.3, 0.05], [-0.3, 0.05]), // of opposite signs
  ...both(4, [0.03, 0.05], [0.013, 0.05]), // marked in one, but the modes do not clearly differ
  ...both(5, [0.0001, 0.05], [-0.0001, 0.05]), // nothing in either
];
const { run, conditions } = plant(EFFECTS);
const audit = auditModes(run) as ModeAudit;
const site = (index: number) => audit.sites.find((one) => one.site === `L2.head[${index}]`) as SiteAudit;

describe("an audit of modes", () => {
  test("tells what each planted head is", () => {
    expect(audit.modes).toEqual(["zero", "mean"]);
    expect(audit.sites.map((one) => one.comparisons.length)).toEqual(Array(6).fill(1));
    expect([0, 1, 2, 3, 4, 5].map((index) => site(index).comparisons[0]?.verdict)).toEqual([
      "only",
      "alike",
      "size",
      "opposite",
      "undecided",
      "alike",
    ]);
    expect(audit.sites.filter(({ artefact }) => artefact).map((one) => one.site)).toEqual([
      "L2.head[3]",
      "L2.head[0]",
    ]);
    expect(finding(site(0))).toBe("in zero, not in mean");
    expect(finding(site(2))).toBe("larger in zero than in mean");
    expect(finding(site(5))).toBe("");
  });

  test("differences, p, q and adjusted intervals are those of the block sums", () => {
    const nll = (index: number, mode: number) =>
      Float64Array.from(conditions[2 * index + mode]?.sums.nll ?? [], (sum) => sum / TOKENS);
    const own = [0, 1, 2, 3, 4, 5].map((index) => {
      const [zero, mean] = [nll(index, 0), nll(index, 1)];
      return estimate(mean.map((value, block) => value - (zero[block] as number)));
    });
    const q = adjust(own.map(({ p }) => p));
    const selected = q.filter((value) => (value ?? 1) <= 0.05).length;
    expect(selected).toBeGreaterThan(1);
    expect(selected).toBeLessThan(6);
    for (const index of own.keys()) {
      const [comparison] = site(index).comparisons;
      const expected = own[index] as ReturnType<typeof estimate>;
      expect(comparison?.pair.difference?.mean).toBeCloseTo(expected.mean, 12);
      expect(comparison?.pair.q).toBeCloseTo(q[index] as number, 9);
      if ((q[index] as number) > 0.05) {
        expect(comparison?.adjusted).toBeNull();
        continue;
      }
      const [low, high] = (comparison as SiteAudit["comparisons"][number]).adjusted ?? [0, 0];
      // The interval's level is 1 − selected × 0.05 / tests: wider than 95 %, narrower than Bonferroni's.
      const missed = 2 * cdf(-(high - expected.mean) / (expected.se as number), 31);
      expect(missed).toBeCloseTo((selected * 0.05) / 6, 9);
      expect(low * high).toBeGreaterThan(0);
    }
  });

  test("q is over the differences of all pairs of modes, not of one", () => {
    const extra = EFFECTS.flatMap(({ of, mean, sd }): Effect[] => {
      const [edit] = of.interventions;
      if (edit?.kind !== "head" || edit.mode !== "zero") return [];
      const resampled = { ...edit, mode: "resample" as const };
      return [{ of: condition(`L2.head[${edit.heads[0]}].resample`, resampled), mean: mean / 2, sd }];
    });
    const three = auditModes(plant([...EFFECTS, ...extra]).run) as ModeAudit;
    expect(three.tests).toBe(18);
    expect(three.agreements.map(({ runs }) => runs.map(({ name }) => name).join())).toEqual([
      "zero,mean",
      "zero,resample",
      "mean,resample",
    ]);
    const pairs = three.agreements.flatMap((one) => one.pairs);
    const expected = adjust(pairs.map(({ difference }) => difference?.p ?? null));
    expect(pairs.map(({ q }) => q)).toEqual(expected);
  });

  test("an effect that only a flag keeps from its mark is no artefact", () => {
    // 8 blocks: everything is flagged, nothing is marked, and so nothing is called an artefact.
    const few = auditModes(plant(EFFECTS, {}, 8).run) as ModeAudit;
    expect(few.sites.some(({ artefact }) => artefact)).toBe(false);
  });

  test("there is none where no site has two modes", () => {
    expect(auditModes(plant([{ of: skip(0), mean: 1, sd: 0.1 }]).run)).toBeNull();
    const apart = [
      { of: head(0, "zero"), mean: 1, sd: 0.1 },
      { of: head(1, "mean"), mean: 1, sd: 0.1 },
    ];
    expect(auditModes(plant(apart).run)).toBeNull();
  });

  test("a site that lacks a mode is named, and enters no number", () => {
    const lacking = auditModes(plant(EFFECTS.slice(0, -1)).run) as ModeAudit;
    expect(lacking.tests).toBe(5);
    const text = auditTable(lacking, { top: null, width: null, paint: (_, one) => one });
    expect(text).toContain("Left out, in zero only: 1 condition (L2.head[5].zero).");
  });

  test("after stop: nothing is tested, and it says so", () => {
    const race = { top: 2, confidence: 0.95, tolerance: 0.01, conditions: 12, rounds: [32] };
    const raced = plant(EFFECTS, { statistics: { correction: "bh", floor: null, race } });
    const untested = auditModes(raced.run) as ModeAudit;
    expect(untested.sites.every(({ comparisons: [one] }) => one?.verdict === "untested")).toBe(true);
    expect(auditTable(untested, { top: null, width: null, paint: (_, one) => one })).toMatch(
      /no difference between modes is tested/,
    );
  });
});

describe("what it looks like", () => {
  test("table, Markdown, JSON and page say the same", () => {
    const table = auditTable(audit, { top: null, width: null, paint: (_, one) => one });
    expect(table).toMatch(/Rank agreement of zero and mean: Spearman ρ/);
    expect(table).toMatch(/Artefacts of the mode: 2 of 6 sites\./);
    expect(table).toMatch(/L2\.head\[0\] +\+0\.500\d*\* +\+0\.0001 +in zero, not in mean/);
    expect(auditMarkdown(audit, null)).toMatch(/\| L2\.head\[0\] \| \+0\.50\d*\\\* \|/);
    const record = auditRecord(audit, null);
    expect(record.sites.filter(({ artefact }) => artefact)).toHaveLength(2);
    expect(record.sites.find((one) => one.site === "L2.head[2]")?.comparisons[0]?.verdict).toBe("size");
    const page = pageText(run.rows, run.facts, audit);
    expect(page).toContain("Modes side by side: zero, mean");
    expect(page).toMatch(/<td>L2\.head\[0\]<\/td>/);
    expect(page).toContain('"name":"modes-zero-mean"');
    expect(pageText(run.rows, run.facts)).not.toContain("Modes side by side");
  });

  test("the headline names the family of the tests", () => {
    expect(headline(run.rows, run.facts).join("\n")).toContain(
      "Benjamini–Hochberg over all conditions of zero, mean together q ≤ 0.05",
    );
  });

  test("one panel a mode, in the same colours; no cell holds two conditions", () => {
    const joint = condition("L2.head[0,1].zero", {
      kind: "head",
      layer: 2,
      heads: [0, 1],
      mode: "zero",
      positions: "all",
    });
    const besides = condition("L2.mlp.zero", { kind: "mlp", layer: 2, mode: "zero", positions: "all" });
    const more = plant([...EFFECTS, { of: joint, mean: 9, sd: 0.1 }, { of: besides, mean: 9, sd: 0.1 }]).run;
    const charts = chartsFor(more.rows, more.facts);
    expect(charts.map(({ name }) => name)).toEqual(["heads-zero", "heads-mean", "ranking"]);
    const [zero, mean] = charts as [Heatmap, Heatmap];
    for (const [panel, mode] of [
      [zero, "zero"],
      [mean, "mean"],
    ] as const) {
      expect(panel.cells.map((cell) => cell.condition)).toEqual(
        [0, 1, 2, 3, 4, 5].map((index) => `L2.head[${index}].${mode}`),
      );
      expect(panel.title).toContain(`(${mode})`);
    }
    expect(zero.scale).toEqual(mean.scale);
    expect(zero.scale.max).toBeLessThan(8);
  });
});
