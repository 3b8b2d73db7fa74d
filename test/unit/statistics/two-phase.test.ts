/** The two-phase estimate beside the sandwich in matrices, its degenerate cases, and how often it holds the truth. */
import { describe, expect, test } from "vitest";
import { sharperFamilies, sharperHeads } from "../../../scripts/simulations/two-phase.ts";
import { estimate } from "../../../src/statistics/effects.ts";
import { twoPhaseEstimate } from "../../../src/statistics/two-phase.ts";
import { normals } from "./random.ts";

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Blocks whose effect is 1.5 times the attribution, and noise. */
function sample(seed: number, n: number, more: number, noise = 0.4) {
  const draw = normals(seed);
  const attributions = Float64Array.from({ length: n + more }, () => 0.1 + draw());
  const differences = attributions.slice(0, n).map((value) => 0.3 + 1.5 * value + noise * draw());
  return { differences, attributions };
}

/** The regression's value at the mean of all attributions, by normal equations: (X'X)⁻¹ X' diag(ẽ²) X (X'X)⁻¹. */
function bySandwich(differences: Float64Array, attributions: Float64Array) {
  const n = differences.length;
  const all = [...attributions];
  const a = all.slice(0, n);
  const [s1, sx, sxx] = [n, a.reduce((x, y) => x + y, 0), a.reduce((x, y) => x + y * y, 0)];
  const determinant = s1 * sxx - sx * sx;
  const inverse = [
    [sxx / determinant, -sx / determinant],
    [-sx / determinant, s1 / determinant],
  ] as const;
  const apply = (v: readonly [number, number]) =>
    inverse.map((row) => row[0] * v[0] + row[1] * v[1]) as unknown as readonly [number, number];
  const totals = [
    [...differences].reduce((x, y) => x + y, 0),
    a.reduce((x, y, block) => x + y * (differences[block] as number), 0),
  ] as const;
  const [intercept, slope] = apply(totals);
  const at = apply([1, mean(all)]);
  let variance = 0;
  for (const [block, value] of a.entries()) {
    const own = apply([1, value]);
    const leverage = own[0] + own[1] * value;
    const residual = ((differences[block] as number) - intercept - slope * value) / (1 - leverage);
    variance += ((at[0] + at[1] * value) * residual) ** 2;
  }
  const spread = all.reduce((sum, value) => sum + (value - mean(all)) ** 2, 0) / (all.length - 1);
  return {
    mean: intercept + slope * mean(all),
    se: Math.sqrt(variance + (slope ** 2 * spread) / all.length),
  };
}

describe("the estimate", () => {
  test.each([
    [16, 0],
    [16, 64],
    [40, 7],
  ])("of %i measured blocks and %i more is the regression's, with HC3's error", (n, more) => {
    const { differences, attributions } = sample(n + more, n, more);
    const expected = bySandwich(differences, attributions);
    const found = twoPhaseEstimate(differences, attributions);
    expect(found.mean).toBeCloseTo(expected.mean, 12);
    expect(found.se).toBeCloseTo(expected.se, 12);
    expect(found).toMatchObject({ n, information: "enough", measured: estimate(differences) });
    expect(found.attribution).toBeCloseTo(mean([...attributions]), 12);
  });

  test("without further blocks is the plain mean, exactly, and its variance the plain one's on average", () => {
    let ratio = 0;
    for (let seed = 1; seed <= 200; seed++) {
      const { differences, attributions } = sample(seed, 64, 0, 1);
      const { mean: effect, se, measured } = twoPhaseEstimate(differences, attributions);
      expect(effect).toBe(measured.mean);
      ratio += ((se as number) / (measured.se as number)) ** 2 / 200;
    }
    expect(ratio).toBeGreaterThan(0.95);
    expect(ratio).toBeLessThan(1.05);
  });

  test("of effects that are their attributions, twice over, is twice the mean of all of them", () => {
    const { attributions } = sample(1, 16, 100);
    const found = twoPhaseEstimate(
      attributions.slice(0, 16).map((value) => 2 * value),
      attributions,
    );
    expect(found.mean).toBeCloseTo(2 * found.attribution, 12);
    expect(found.correlation).toBeCloseTo(1, 12);
    expect(found.gain).toBeGreaterThan(3);
  });

  test("of a condition against itself is 0 with no error", () => {
    const zero = new Float64Array(16);
    expect(twoPhaseEstimate(zero, new Float64Array(80))).toMatchObject({
      ...{ mean: 0, se: 0, ci95: [0, 0], p: 1, information: "none" },
    });
  });
});

describe("attributions that tell too little", () => {
  const { differences, attributions } = sample(3, 16, 64);
  const seen = (values: readonly number[]) => {
    const changed = attributions.slice();
    changed.set(values);
    return twoPhaseEstimate(differences, changed);
  };

  test("all alike: the plain estimate", () => {
    const found = seen(Array(16).fill(0.7));
    expect(found).toMatchObject({ ...estimate(differences), information: "none", gain: 1 });
    const rounded = seen(Array.from({ length: 16 }, (_, block) => 0.7 + (block % 2) * 1e-16));
    expect(rounded.information).toBe("none");
  });

  test("all 0 where further ones are not: no interval", () => {
    expect(seen(Array(16).fill(0))).toMatchObject({
      ...{ information: "unseen", mean: estimate(differences).mean, se: null, ci95: null, p: null },
    });
  });

  test("in fewer than four blocks, or decided by one: the wider of both intervals", () => {
    const width = (ci95: readonly [number, number] | null) => (ci95 === null ? 0 : ci95[1] - ci95[0]);
    const few = [
      [0, 0, 1, 2, 3],
      [0.1, 0.2, 0.3, 0.4, 0.5, 1000],
    ];
    for (const values of few) {
      const found = seen(Array.from({ length: 16 }, (_, block) => values[block] ?? 0));
      expect(found.information).toBe("few");
      expect(width(found.ci95)).toBeGreaterThanOrEqual(width(found.measured.ci95) * (1 - 1e-12));
    }
    expect(seen(Array.from({ length: 16 }, (_, block) => [1, 2, 3, 4][block] ?? 0)).information).toBe(
      "enough",
    );
  });

  test("a block without an attribution is refused", () => {
    expect(() => twoPhaseEstimate(differences, attributions.subarray(0, 15))).toThrow(
      "needs its attribution",
    );
  });
});

describe("simulated", () => {
  test("made-up blocks that are well behaved are covered as promised, at a fraction of the cost", () => {
    for (const { family, covered, gain, further } of sharperFamilies(300)) {
      if (family.startsWith("lognormal")) continue;
      expect(covered[0]).toBeGreaterThan(0.91);
      expect(gain).toBeGreaterThan(further === 64 ? 1 : 2);
    }
  });

  test("SmolLM2's heads: the middle one is covered as promised, the worst tenth as by the plain interval", () => {
    for (const { measured, further, covered, plain, gain } of sharperHeads(30, 90)) {
      expect(covered[0]).toBeGreaterThan(0.9);
      if (further <= 8 * measured) expect(covered[1]).toBeGreaterThan(plain[1] - 0.08);
      expect(gain).toBeGreaterThan(1);
    }
  });
});
