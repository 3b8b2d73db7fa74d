import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { coverage, discovery, racing, report } from "../../../scripts/simulate-statistics.ts";

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

test("a race errs no more often than it may, and costs less than the uniform run", () => {
  const rounds = 25;
  for (const { errors, cost } of racing(rounds)) {
    expect(errors).toBeLessThanOrEqual(0.05 + slack(0.05, rounds));
    expect(cost).toBeLessThan(1);
  }
});

test("the documentation holds the script's tables", () => {
  const head = (text: string) => text.split("\n").filter((line) => line.startsWith("| block differences"));
  expect(head(readFileSync("docs/statistics.md", "utf8"))).toEqual(head(report(2)));
});
