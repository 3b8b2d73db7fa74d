import { describe, expect, it } from "vitest";
import { choose, withInterval } from "../../../src/directions/choice.ts";
import type { DirectionCandidate } from "../../../src/protocol/messages.ts";

const at = (value: number, se = 0.1) => ({ value, se });

function candidate(lowered: number | null, raised: number | null, more: Partial<DirectionCandidate> = {}) {
  const scores = (down: number | null, up: number | null, kl: number) => ({
    contrast: at(3),
    lowered: down === null ? null : at(down),
    raised: up === null ? null : at(up),
    kl: at(kl),
  });
  const base = {
    layer: 0,
    position: 1,
    norm: 2,
    split_half_cosine: 0.9,
    bootstrap_cosine: 0.95,
    bootstrap_cosine_low: 0.9,
  };
  return { ...base, ...scores(lowered, raised, 0.05), random: scores(0.1, 0.1, 0.01), ...more };
}

describe("the choice of a direction", () => {
  it("takes the largest smaller score, and of equal ones the first", () => {
    const candidates = [candidate(3, 0.5), candidate(1, 1.5), candidate(1, 9), candidate(0.2, 8)];
    expect(choose(candidates, 1, 20)?.index).toBe(1);
  });

  it("takes none that costs too much, that has no score, or that one score speaks against", () => {
    const costly = candidate(5, 5, { kl: at(0.3) });
    expect(
      choose([costly, candidate(null, null), candidate(-1, 4), candidate(2, 0), candidate(1, 1)], 0.2, 20),
    ).toEqual({
      index: 4,
      beyond_controls: true,
    });
    expect(choose([costly, candidate(null, null)], 0.2, 20)).toBeNull();
    expect(choose([], 0.2, 20)).toBeNull();
  });

  it("is beyond the controls only where both scores are, by an interval that holds for all candidates", () => {
    const beyond = (lowered: number, raised: number, count: number, freedom: number) => {
      const rest = Array.from({ length: count - 1 }, () => candidate(0.01, 0.01));
      return choose([candidate(lowered, raised), ...rest], 1, freedom)?.beyond_controls;
    };
    // one-sided t quantiles at 1 - 0.05 / 30: 3.19 at 29 degrees of freedom, 17.3 at 2
    expect(beyond(0.1 + 0.32, 2, 30, 29)).toBe(true);
    expect(beyond(0.1 + 0.31, 2, 30, 29)).toBe(false);
    expect(beyond(2, 0.1 + 0.31, 30, 29)).toBe(false);
    expect(beyond(0.1 + 0.32, 2, 300, 29)).toBe(false);
    expect(beyond(0.1 + 1.72, 2, 30, 2)).toBe(false);
    const strong = { random: { ...candidate(0, 0).random, raised: at(5) } };
    expect(choose([candidate(2, 2), candidate(0.1, 0.1, strong)], 1, 29)?.beyond_controls).toBe(false);
  });

  it("gives each estimate its own 95 % interval", () => {
    expect(withInterval(null, 9)).toBeNull();
    const { ci95 } = withInterval(at(1, 0.5), 9) ?? { ci95: [0, 0] };
    expect(ci95[0]).toBeCloseTo(1 - 2.262157 * 0.5, 5);
    expect(ci95[1]).toBeCloseTo(1 + 2.262157 * 0.5, 5);
  });
});
