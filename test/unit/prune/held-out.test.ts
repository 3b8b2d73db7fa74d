/** Which step held-out blocks allow, and how often that is one that truly costs too much. */
import { describe, expect, test } from "vitest";
import {
  disagreement,
  lastAllowed,
  type Step,
  type TextEffect,
  textEffect,
} from "../../../src/prune/held-out.ts";
import { estimate } from "../../../src/statistics/effects.ts";
import { normals } from "../statistics/random.ts";

const MOST = 0.1;

function effect(text: string, delta_nll: number, se: number | null = 0.01, blocks = 64): TextEffect {
  return textEffect(text, { delta_nll, se, ci95: null, blocks }, { repeats: false, left_out: 0 });
}

const steps = (...costs: readonly (readonly TextEffect[])[]): Step[] =>
  costs.map((held_out, index) => ({ size: index + 1, held_out }));

describe("the step that held-out blocks allow", () => {
  test("is the last before the first failure, whatever comes later", () => {
    const path = steps([effect("a", 0)], [effect("a", 0.05)], [effect("a", 0.099)], [effect("a", 0.01)]);
    expect(lastAllowed(path, MOST)?.size).toBe(2);
    expect(lastAllowed(path.slice(0, 2), MOST)?.size).toBe(2);
    expect(lastAllowed(steps([effect("a", 0.5)]), MOST)).toBeNull();
    expect(lastAllowed([], MOST)).toBeNull();
  });

  test("is allowed by every text", () => {
    expect(lastAllowed(steps([effect("a", 0), effect("b", 0.2)]), MOST)).toBeNull();
  });

  test("never includes one that could not be measured on some text", () => {
    const failed = { ...effect("b", 0), delta_nll: null, upper95: null };
    expect(lastAllowed(steps([effect("a", 0), effect("b", 0)], [effect("a", 0), failed]), MOST)?.size).toBe(
      1,
    );
  });

  test("without spread nothing is known", () => {
    expect(lastAllowed(steps([effect("a", 0, 0)]), MOST)).toBeNull();
    expect(lastAllowed(steps([effect("a", 0, null, 1)]), MOST)).toBeNull();
  });

  test("truly costs more in at most 5 % of 2,000 paths, one step of which costs just that", () => {
    const draw = normals(5);
    const wrong = { one: 0, two: 0 };
    const measured = (text: string, mean: number): TextEffect => {
      const { se, n, mean: found } = estimate(Float64Array.from({ length: 32 }, () => mean + 0.2 * draw()));
      return effect(text, found, se, n);
    };
    for (let path = 0; path < 2_000; path++) {
      // Beyond the third, which costs just as much as is allowed, every step costs more.
      const costs = [0.01, 0.02, MOST, 0.12, 0.2];
      const one = lastAllowed(steps(...costs.map((cost) => [measured("a", cost)])), MOST);
      const two = lastAllowed(steps(...costs.map((cost) => [measured("a", 0), measured("b", cost)])), MOST);
      if ((one?.size ?? 0) >= 3) wrong.one++;
      if ((two?.size ?? 0) >= 3) wrong.two++;
    }
    // Binomial: 5 % of 2,000 are 100, give or take 19.5 in 95 of 100 cases.
    for (const count of Object.values(wrong)) expect(count).toBeLessThan(125);
    expect(wrong.one).toBeGreaterThan(20);
  });
});

describe("texts disagree", () => {
  const [low, high] = [
    (size: number) => effect("novel", 0.01 * size),
    (size: number) => effect("code", 0.05 * size ** 2),
  ];

  test("from the first step on from which all do", () => {
    const path = [1, 2, 3, 4].map((size) => [low(size), size === 1 ? effect("code", 0.012) : high(size)]);
    expect(disagreement(steps(...path))).toEqual({ from_size: 2, most: "code", least: "novel" });
    const apart = [low(1), high(3)];
    expect(disagreement(steps(apart, [low(2), effect("code", 0.02)]))).toBeNull();
  });

  test("never one text with itself, nor within noise", () => {
    expect(disagreement(steps([low(1)], [low(2)]))).toBeNull();
    const draw = normals(8);
    let found = 0;
    for (let seed = 0; seed < 1_000; seed++) {
      const noisy = ["a", "b", "c"].map((text) => {
        const { mean, se, n } = estimate(Float64Array.from({ length: 16 }, () => draw()));
        return effect(text, mean, se, n);
      });
      if (disagreement(steps(noisy)) !== null) found++;
    }
    expect(found).toBeLessThan(70);
  });
});
