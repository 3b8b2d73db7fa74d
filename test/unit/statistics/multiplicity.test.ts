import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { estimate } from "../../../src/statistics/effects.ts";
import { adjust } from "../../../src/statistics/multiplicity.ts";
import { heavyTails, normals, uniforms } from "./random.ts";

const golden: { multiplicity: { p: number[]; bh: number[]; by: number[] }[] } = JSON.parse(
  readFileSync(new URL("golden.json", import.meta.url), "utf8"),
);

describe.each(["bh", "by"] as const)("%s", (correction) => {
  test.each(golden.multiplicity)("against scipy (case %#)", (sample) => {
    const q = adjust(sample.p, correction);
    sample[correction].forEach((expected, index) => {
      expect(q[index]).toBeCloseTo(expected, 12);
    });
  });

  test("q is at least p, at most 1, and keeps p's order, whatever the order given", () => {
    const draw = uniforms(7);
    const p = Array.from({ length: 300 }, () => draw() ** 5);
    const q = adjust(p, correction) as number[];
    const order = p.map((_, index) => index).sort((a, b) => (p[a] as number) - (p[b] as number));
    for (const [rank, index] of order.entries()) {
      expect(q[index]).toBeGreaterThanOrEqual(p[index] as number);
      expect(q[index]).toBeLessThanOrEqual(1);
      if (rank > 0) expect(q[index]).toBeGreaterThanOrEqual(q[order[rank - 1] as number] as number);
    }
    const reversed = adjust([...p].reverse(), correction);
    expect(reversed.reverse()).toEqual(q);
  });

  test("a condition without a p counts among the tests and gets no q", () => {
    expect(adjust([0.01, null, 0.2], correction)).toEqual(
      adjust([0.01, 1, 0.2], correction).map((q, index) => (index === 1 ? null : q)),
    );
  });
});

test("no conditions, no q values", () => {
  expect(adjust([])).toEqual([]);
});

test.each([
  ["normal", normals(11)],
  ["t with 3 degrees of freedom", heavyTails(12)],
])("false discovery rate stays at its nominal 5 %%: %s", (_, draw) => {
  const [rounds, conditions, real, blocks] = [400, 40, 10, 16];
  const rates: number[] = [];
  for (let round = 0; round < rounds; round++) {
    const p = Array.from({ length: conditions }, (_unused, condition) => {
      const shift = condition < real ? 1 : 0;
      return estimate(Float64Array.from({ length: blocks }, () => draw() + shift)).p;
    });
    const called = adjust(p).flatMap((q, condition) => ((q as number) <= 0.05 ? [condition] : []));
    rates.push(called.filter((condition) => condition >= real).length / Math.max(1, called.length));
  }
  const { mean, se } = estimate(Float64Array.from(rates));
  expect(mean).toBeLessThanOrEqual(0.05 + 2 * (se as number));
});
