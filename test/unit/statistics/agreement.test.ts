import { describe, expect, test } from "vitest";
import { averageRanks, spearman, topOverlap } from "../../../src/statistics/agreement.ts";
import golden from "./golden.json" with { type: "json" };
import { normals } from "./random.ts";

describe("Spearman's ρ", () => {
  test.each(golden.agreement)("is scipy's, ties included: $name", ({ a, b, rho, ranks }) => {
    expect(averageRanks(a.map((value) => -value))).toEqual(ranks);
    const found = spearman(a, b);
    expect(found.rho).toBeCloseTo(rho, 12);
    const tied = (values: number[]) =>
      values.filter((value) => values.filter((other) => other === value).length > 1).length;
    expect(found).toMatchObject({ n: a.length, ties: [tied(a), tied(b)] });
  });

  test("does not change when values are stretched without changing their order, and turns with a sign", () => {
    const normal = normals(3);
    const a = Array.from({ length: 40 }, normal);
    const b = a.map((value) => value + normal());
    const { rho, ci95 } = spearman(a, b);
    expect(spearman(a.map(Math.exp), b.map(Math.atan)).rho).toBe(rho);
    const turned = spearman(
      a,
      b.map((value) => -value),
    );
    expect(turned.rho).toBeCloseTo(-(rho as number), 12);
    expect(turned.ci95?.[0]).toBeCloseTo(-(ci95?.[1] as number), 12);
  });

  test("is not defined where nothing is ranked apart, and has no interval where the formula has none", () => {
    expect(spearman([1, 1, 1, 1], [1, 2, 3, 4])).toMatchObject({ rho: null, ci95: null, ties: [4, 0] });
    expect(spearman([1], [2])).toMatchObject({ n: 1, rho: null });
    expect(spearman([], [])).toMatchObject({ n: 0, rho: null });
    expect(spearman([1, 2, 3, 4], [2, 3, 5, 9])).toMatchObject({ rho: 1, ci95: null });
    expect(spearman([1, 2, 3], [1, 3, 2]).ci95).toBeNull();
  });

  test.each([
    [0.3, 20],
    [0.8, 30],
    [0.8, 100],
  ])("its interval holds the ρ of the population as often as it says (r %s, %s things)", (r, n) => {
    // Of a bivariate normal distribution: Pearson 1907.
    const population = (6 / Math.PI) * Math.asin(r / 2);
    const normal = normals(n);
    const rounds = 2_000;
    let held = 0;
    for (let round = 0; round < rounds; round++) {
      const a = Array.from({ length: n }, normal);
      const b = a.map((value) => r * value + Math.sqrt(1 - r * r) * normal());
      const { ci95 } = spearman(a, b);
      if (ci95 && ci95[0] <= population && population <= ci95[1]) held++;
    }
    expect(held / rounds).toBeGreaterThan(0.925);
    expect(held / rounds).toBeLessThan(0.975);
  });
});

test("the tops of unrelated rankings share k²/n on average", () => {
  const normal = normals(7);
  const order = (values: number[]) =>
    values.map((_, index) => index).sort((x, y) => (values[y] as number) - (values[x] as number));
  let shared = 0;
  const rounds = 2_000;
  for (let round = 0; round < rounds; round++) {
    const [a, b] = [Array.from({ length: 30 }, normal), Array.from({ length: 30 }, normal)];
    const overlap = topOverlap([order(a), order(b)], 5);
    expect(overlap.by_chance).toBeCloseTo(25 / 30, 12);
    shared += overlap.shared;
  }
  // Hypergeometric: variance 0.598 a round, so 0.083 is 4.8 standard errors.
  expect(Math.abs(shared / rounds - 25 / 30)).toBeLessThan(0.083);
});
