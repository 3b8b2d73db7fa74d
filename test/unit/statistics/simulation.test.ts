import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { report } from "../../../scripts/simulate-statistics.ts";
import { measuredHeads } from "../../../scripts/simulations/heads.ts";
import { coverage, discovery, headCoverage } from "../../../scripts/simulations/intervals.ts";
import { headRacing, headSavings, racing } from "../../../scripts/simulations/races.ts";

/** Two standard errors of a simulated share, and what a run in small may add by chance. */
const slack = (share: number, rounds: number) => 3 * Math.sqrt((share * (1 - share)) / rounds);

test("well-behaved blocks are covered as promised, skewed ones are flagged instead", () => {
  const rounds = 1500;
  const found = Object.fromEntries(coverage(rounds).map((entry) => [entry.family, entry]));
  for (const family of ["normal", "t₃", "tokens of a block correlated at 0.9"]) {
    for (const share of found[family]?.covered ?? []) {
      expect(share).toBeGreaterThan(0.94 - slack(0.94, rounds));
      expect(share).toBeLessThan(0.97 + slack(0.97, rounds));
    }
  }
  for (const family of ["exponential", "lognormal(1)", "5 % outlier blocks (+10 sd)"]) {
    for (const share of found[family]?.skewed.slice(1) ?? []) expect(share).toBeGreaterThan(0.5);
  }
});

test("false discoveries stay below 5 %", () => {
  for (const { rate, se } of discovery(150)) expect(rate).toBeLessThanOrEqual(0.05 + 2 * se);
});

test("SmolLM2's median head is covered as promised", () => {
  const rounds = 60;
  const { median, worst } = headCoverage(rounds);
  for (const [column, share] of median.covered.slice(1).entries()) {
    // The median of 270 heads is known better than one of them.
    expect(share).toBeGreaterThan(0.93 - slack(0.93, rounds) / 2);
    expect(share).toBeLessThan(0.96 + slack(0.96, rounds) / 2);
    expect(worst.covered[column + 1]).toBeLessThan(share);
  }
});

test.each([
  ["normal and t₃", racing],
  ["SmolLM2's heads", headRacing],
])("a race errs no more often than it may, and costs less than the uniform run: %s", (_, simulate) => {
  const rounds = 25;
  for (const { errors, cost } of simulate(rounds)) {
    expect(errors).toBeLessThanOrEqual(0.05 + slack(0.05, rounds));
    expect(cost).toBeLessThan(1);
  }
});

test("SmolLM2's top 5: every head pays for the first round, and few pay for more", () => {
  for (const { blocks, uniform, measurements, forwards } of headSavings(4)) {
    expect(uniform).toBeLessThanOrEqual(blocks);
    expect(measurements).toBeGreaterThanOrEqual(16 / uniform);
    expect(measurements).toBeLessThan(0.5);
    expect(forwards).toBeLessThan(0.5);
  }
});

test("the measured heads are whole, and on average cost what the bench's bound says", () => {
  const { ids, effects, blocks, forwards } = measuredHeads();
  expect(new Set(ids).size).toBe(270);
  for (const values of effects) {
    expect(values).toHaveLength(blocks);
    expect(values.every(Number.isFinite)).toBe(true);
  }
  const mean = forwards.reduce((sum, share) => sum + share, 0) / forwards.length;
  // docs/dev/log-engine.md, "Bench": the walk is at most 1.63 times as fast on all heads.
  expect(1 / mean).toBeCloseTo(1.63, 2);
});

test("the documentation holds the script's tables", () => {
  const firstCells = (text: string) => text.split("\n").flatMap((line) => /^\| [^|]+\|/.exec(line) ?? []);
  const written = readFileSync("docs/statistics.md", "utf8").split(/<!-- (?:simulated|end) -->/)[1];
  expect(firstCells(written ?? "")).toEqual(firstCells(report(2)));
});
