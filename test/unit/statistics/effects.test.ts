import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  estimate,
  MAX_SKEWNESS,
  median,
  pairedEffect,
  signCount,
  smallestDetectable,
} from "../../../src/statistics/effects.ts";
import { heavyTails, normals, uniforms } from "./random.ts";

interface Golden {
  name: string;
  tokens: number;
  condition: number[];
  baseline: number[];
  mean: number;
  se: number;
  ci95: [number, number];
  p: number;
  skewness: number | null;
  smallest_detectable: number;
}

const golden: { samples: Golden[] } = JSON.parse(
  readFileSync(new URL("golden.json", import.meta.url), "utf8"),
);

/** Relative to the size of the numbers that were subtracted. */
function close(actual: number | null, expected: number, relative = 1e-9): void {
  expect(Math.abs((actual as number) - expected)).toBeLessThanOrEqual(relative * Math.abs(expected) + 1e-13);
}

describe("against scipy", () => {
  test.each(golden.samples)("$name", (sample) => {
    const effect = pairedEffect(
      Float64Array.from(sample.condition),
      Float64Array.from(sample.baseline),
      sample.tokens,
    );
    close(effect.mean, sample.mean);
    close(effect.se, sample.se);
    close(effect.ci95?.[0] ?? null, sample.ci95[0]);
    close(effect.ci95?.[1] ?? null, sample.ci95[1]);
    // Tails of 1e-200 magnify the last bit of t.
    expect(effect.p).toBeGreaterThanOrEqual(0);
    // Skewed samples have a corrected p (below); the t test's is a lower bound of it.
    if (Math.abs(sample.skewness ?? 0) > MAX_SKEWNESS) {
      expect(effect.p).toBeGreaterThanOrEqual(sample.p * (1 - 1e-9));
    } else if (sample.p > 0) expect(Math.abs(Math.log((effect.p as number) / sample.p))).toBeLessThan(1e-6);
    if (sample.skewness === null) expect(effect.skewness).toBeNull();
    else close(effect.skewness, sample.skewness, 1e-7);
    close(smallestDetectable(effect.se as number, effect.n), sample.smallest_detectable);
  });
});

describe("skewed samples", () => {
  const share = (rounds: number, n: number, draw: () => number) => {
    let found = 0;
    for (let round = 0; round < rounds; round++)
      if ((estimate(Float64Array.from({ length: n }, draw)).p as number) <= 0.05) found++;
    return found / rounds;
  };

  test("false marks of an exponential sample fall from 9 % to about 5.5 %", () => {
    const uniform = uniforms(3);
    const found = share(8000, 16, () => -Math.log(1 - uniform()) - 1);
    expect(found).toBeGreaterThan(0.045);
    expect(found).toBeLessThan(0.068);
  });

  test("real harm in 15 % of the blocks is still found", () => {
    const [uniform, normal] = [uniforms(4), normals(5)];
    const found = share(2000, 64, () => (uniform() < 0.15 ? 1 : 0) + 0.1 * normal());
    expect(found).toBeGreaterThan(0.94);
  });

  test("the other sign after the correction is no evidence at all", () => {
    const values = Float64Array.from({ length: 32 }, (_, block) => (block === 0 ? 6 : -0.2));
    const { mean, skewness, p } = estimate(values);
    expect(mean).toBeLessThan(0);
    expect(skewness).toBeGreaterThan(5);
    expect(p).toBe(1);
  });
});

describe("the sign test", () => {
  test.each([
    { values: [1, 1, 1, 1], worse: 4, changed: 4, p: 2 / 16 },
    { values: [1, -1, 0, 0], worse: 1, changed: 2, p: 1 },
    { values: [-1, -1, -1, 1], worse: 1, changed: 4, p: 10 / 16 },
    { values: [0, 0], worse: 0, changed: 0, p: 1 },
    { values: [-1], worse: 0, changed: 1, p: 1 },
  ])("$worse of $changed", ({ values, worse, changed, p }) => {
    expect(signCount(Float64Array.from(values))).toEqual({ worse, changed, p });
  });

  test("far tails neither overflow nor vanish before float64 does", () => {
    const all = signCount(new Float64Array(1000).fill(1));
    expect(all.p / 2 ** -999).toBeCloseTo(1, 12);
    const half = signCount(Float64Array.from({ length: 20_000 }, (_, block) => (block % 2 ? 1 : -1)));
    expect(half.p).toBe(1);
  });
});

describe("algebra", () => {
  const normal = normals(1);
  const baseline = Float64Array.from({ length: 24 }, () => 500 + 50 * normal());
  const condition = baseline.map((value) => value + 4 + normal());
  const effect = pairedEffect(condition, baseline, 100);

  test("a shift of both sides changes nothing, up to the rounding of the sums", () => {
    const shifted = pairedEffect(
      condition.map((value) => value + 1024),
      baseline.map((value) => value + 1024),
      100,
    );
    close(shifted.mean, effect.mean, 1e-12);
    close(shifted.se, effect.se as number, 1e-11);
  });

  test("twice the sums: twice the effect, its error and interval; the same t, p and skewness", () => {
    const scaled = pairedEffect(
      condition.map((value) => 2 * value),
      baseline.map((value) => 2 * value),
      100,
    );
    expect(scaled.mean).toBe(2 * effect.mean);
    expect(scaled.se).toBe(2 * (effect.se as number));
    expect(scaled.p).toBe(effect.p);
    expect(scaled.skewness).toBe(effect.skewness);
  });

  test("the sides swapped: the effect and its interval change sign, p stays", () => {
    const swapped = pairedEffect(baseline, condition, 100);
    expect(swapped.mean).toBe(-effect.mean);
    expect(swapped.ci95).toEqual(effect.ci95?.map((end) => -end).reverse());
    expect(swapped.p).toBe(effect.p);
  });

  test("the interval excludes 0 exactly where p < 0.05", () => {
    const draw = normals(2);
    for (let round = 0; round < 200; round++) {
      const { ci95, p, skewness } = estimate(Float64Array.from({ length: 5 }, () => draw() + 0.9));
      const [low, high] = ci95 as [number, number];
      if (Math.abs(skewness as number) > MAX_SKEWNESS) continue;
      expect(low > 0 || high < 0).toBe((p as number) < 0.05);
    }
  });
});

describe("samples without spread", () => {
  test("one block: a mean, no error, no interval, no p", () => {
    expect(pairedEffect(Float64Array.of(510), Float64Array.of(500), 10)).toEqual({
      n: 1,
      mean: 1,
      se: null,
      ci95: null,
      p: null,
      skewness: null,
    });
  });

  test("an edit that changes nothing: 0 ± 0, p = 1", () => {
    const sums = Float64Array.of(1, 2, 3, 4);
    expect(pairedEffect(sums, sums, 10)).toEqual({
      n: 4,
      mean: 0,
      se: 0,
      ci95: [0, 0],
      p: 1,
      skewness: null,
    });
  });

  test("the same difference everywhere is not infinitely certain: no interval, no p", () => {
    const baseline = Float64Array.of(0.1, 0.2, 0.3, 0.7);
    const effect = pairedEffect(
      baseline.map((value) => value + 0.25),
      baseline,
      1,
    );
    expect(effect.mean).toBeCloseTo(0.25, 14);
    expect(effect).toMatchObject({ se: 0, ci95: null, p: null });
  });

  test("two different lists of blocks are refused", () => {
    expect(() => pairedEffect(Float64Array.of(1, 2), Float64Array.of(1), 1)).toThrow(RangeError);
    expect(() => estimate(new Float64Array())).toThrow(RangeError);
  });
});

test("median", () => {
  expect(median([])).toBeNull();
  expect(median([3])).toBe(3);
  expect(median([4, 1, 10, 2])).toBe(3);
});

describe("coverage of the 95 % interval, 4,000 samples each", () => {
  const rounds = 4000;
  const coverage = (draw: () => number, mean: number, blocks: number): number => {
    let covered = 0;
    for (let round = 0; round < rounds; round++) {
      const { ci95 } = estimate(Float64Array.from({ length: blocks }, draw));
      const [low, high] = ci95 as [number, number];
      if (low <= mean && mean <= high) covered++;
    }
    return covered / rounds;
  };
  /** Three standard errors of a simulated share of 95 %. */
  const slack = 3 * Math.sqrt((0.95 * 0.05) / rounds);

  test.each([8, 16, 32])("normal, %i blocks: nominal", (blocks) => {
    expect(Math.abs(coverage(normals(blocks), 0, blocks) - 0.95)).toBeLessThan(slack);
  });
  test.each([8, 32])("t with 3 degrees of freedom, %i blocks: nominal or a little more", (blocks) => {
    const share = coverage(heavyTails(blocks), 0, blocks);
    expect(share).toBeGreaterThan(0.95 - slack);
    expect(share).toBeLessThan(0.975);
  });
  test("lognormal, 16 blocks: too narrow, and flagged as skewed more often than not", () => {
    const normal = normals(3);
    const draw = () => Math.exp(normal());
    expect(coverage(draw, Math.exp(0.5), 16)).toBeLessThan(0.93);
    let flagged = 0;
    for (let round = 0; round < 500; round++) {
      const { skewness } = estimate(Float64Array.from({ length: 16 }, draw));
      if (Math.abs(skewness as number) > 1) flagged++;
    }
    expect(flagged).toBeGreaterThan(250);
  });
  test("uniform blocks are not flagged as skewed", () => {
    const draw = uniforms(4);
    let flagged = 0;
    for (let round = 0; round < 500; round++) {
      const { skewness } = estimate(Float64Array.from({ length: 32 }, draw));
      if (Math.abs(skewness as number) > 1) flagged++;
    }
    expect(flagged).toBeLessThan(5);
  });
});
