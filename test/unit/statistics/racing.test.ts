import quantile from "@stdlib/stats-base-dists-t-quantile";
import { describe, expect, test } from "vitest";
import { estimate } from "../../../src/statistics/effects.ts";
import { type RacePlan, race, roundsFor, simultaneousInterval } from "../../../src/statistics/racing.ts";
import { heavyTails, normals } from "./random.ts";

const plan = (more: Partial<RacePlan> = {}): RacePlan => ({
  top: 3,
  confidence: 0.95,
  tolerance: 0,
  conditions: 12,
  rounds: roundsFor(128, 4),
  ...more,
});

/** Block effects around the means, with noise that all conditions share and noise of their own. */
function sample(means: readonly number[], blocks: number, draw: () => number, own = 1): Float64Array[] {
  const shared = Array.from({ length: blocks }, draw);
  return means.map((mean) =>
    Float64Array.from({ length: blocks }, (_, block) => mean + (shared[block] as number) + own * draw()),
  );
}

/** Measures what the race asks for, a round at a time, as a controller would. */
function run(of: RacePlan, all: readonly Float64Array[]) {
  let seen = all.map(() => new Float64Array());
  let state = race(of, seen);
  while (!state.finished) {
    const { active, target } = state;
    seen = seen.map((values, condition) =>
      active.includes(condition) ? (all[condition] as Float64Array).slice(0, target) : values,
    );
    state = race(of, seen);
  }
  return { state, seen, used: seen.reduce((total, { length }) => total + length, 0) };
}

const spread = Array.from({ length: 12 }, (_, rank) => 12 - rank);

describe("rounds", () => {
  test("double from 16, end with a batch, end with all blocks", () => {
    expect(roundsFor(128, 4)).toEqual([16, 32, 64, 128]);
    expect(roundsFor(100, 4)).toEqual([16, 32, 64, 100]);
    expect(roundsFor(64, 12)).toEqual([24, 36, 64]);
    expect(roundsFor(8, 4)).toEqual([8]);
    expect(roundsFor(64, 64)).toEqual([64]);
  });
});

describe("a race", () => {
  test("clear leaders are settled after one round, for the fewest blocks", () => {
    const { state, used } = run(plan(), sample(spread, 128, normals(1), 0.05));
    expect(state).toMatchObject({ chosen: [0, 1, 2], accepted: [0, 1, 2], settled: true, decided: 1 });
    expect(used).toBe(12 * 16);
  });

  test("equal effects at the edge never settle without a tolerance, and soon with one", () => {
    const means = [5, 4, 1, 1, 1, 0, 0, 0, -1, -1, -1, -1];
    const all = sample(means, 128, normals(2), 0.2);
    const strict = run(plan(), all).state;
    expect(strict).toMatchObject({ settled: false, finished: true, accepted: [0, 1] });
    expect(strict.chosen).toHaveLength(3);
    const lenient = run(plan({ tolerance: 0.8 }), all).state;
    expect(lenient.settled).toBe(true);
  });

  test("what is decided stays decided: conditions that are out or accepted get no more blocks", () => {
    const means = [5, 4, 1.1, 1, 0.9, -3, -3, -3, -3, -3, -3, -3];
    const { seen } = run(plan(), sample(means, 128, normals(3), 0.5));
    expect([seen[0]?.length, seen[1]?.length]).toEqual([16, 16]);
    for (const values of seen.slice(5)) expect(values.length).toBe(16);
    expect(seen[2]?.length).toBeGreaterThan(16);
  });

  test("half a round decides nothing; more than a round asked for changes nothing", () => {
    const all = sample(spread, 128, normals(4));
    const early = race(
      plan(),
      all.map((values, condition) => values.slice(0, condition === 5 ? 15 : 16)),
    );
    expect(early).toMatchObject({ decided: 0, target: 16 });
    expect(early.active).toHaveLength(12);
    const whole = run(plan(), all);
    expect(race(plan(), all)).toEqual(whole.state);
  });

  test("a failed condition is out of the race", () => {
    const all = sample(spread, 128, normals(5), 0.05);
    const state = race(
      plan(),
      all.map((values, condition) => (condition === 1 ? null : values)),
    );
    expect(state.chosen).toEqual([0, 2, 3]);
  });

  test("fewer conditions than places: all are in, nothing more is wanted", () => {
    const state = race(plan({ conditions: 2 }), sample([1, 2], 16, normals(6)));
    expect(state).toMatchObject({ settled: true, finished: true });
    expect(state.chosen).toHaveLength(2);
  });

  test("for the smallest it is the race for the largest with the signs turned", () => {
    for (const seed of [11, 12, 13]) {
      const all = sample(spread, 128, normals(seed), 0.4);
      const { top, ...rest } = plan();
      const bottom = run({ ...rest, bottom: top }, all);
      const turned = run(
        plan(),
        all.map((values) => values.map((value) => -value)),
      );
      expect(bottom).toEqual({ ...turned, seen: bottom.seen });
      expect(bottom.seen.map((values) => values.length)).toEqual(turned.seen.map((values) => values.length));
      expect(bottom.state.chosen.every((condition) => condition >= 8)).toBe(true);
    }
  });

  test("one block settles nothing", () => {
    const state = race(plan({ rounds: [1] }), sample(spread, 1, normals(7), 0.01));
    expect(state).toMatchObject({ settled: false, finished: true, accepted: [] });
  });

  test("a shift or a scale of all effects (and of the tolerance) changes no decision", () => {
    const all = sample([5, 4, 1.1, 1, 0.9, 0, 0, 0, 0, 0, 0, 0], 128, normals(8));
    const state = race(plan({ tolerance: 0.25 }), all);
    const moved = all.map((values) => values.map((value) => 4 * value + 8));
    expect(race(plan({ tolerance: 1 }), moved)).toEqual(state);
  });
});

/**
 * A race errs where a condition it settled lies further below the k-th largest true effect than the
 * tolerance. Planted gaps at the edge: 0, half, once and twice the tolerance.
 */
describe.each([
  ["normal", normals],
  ["t with 3 degrees of freedom", heavyTails],
] as const)("error rate: %s", (_, family) => {
  const tolerance = 0.3;
  test.each([0, 0.5, 1, 2])("gap of %d tolerances at the edge", (gap) => {
    const rounds = 150;
    const edge = 1;
    const means = [
      3,
      2,
      edge,
      ...Array.from({ length: 9 }, (_unused, index) => edge - gap * tolerance - 0.05 * index),
    ];
    const draw = family(gap * 10 + 1);
    let errors = 0;
    for (let round = 0; round < rounds; round++) {
      const { accepted } = race(plan({ tolerance, rounds: roundsFor(64, 4) }), sample(means, 64, draw));
      if (accepted.some((condition) => (means[condition] as number) < edge - tolerance - 1e-12)) errors++;
    }
    expect(errors / rounds).toBeLessThanOrEqual(0.05 + 2 * Math.sqrt((0.05 * 0.95) / rounds));
  });
});

/**
 * The lemma that the error is divided by: a race can only err where, in some round, the bound of a pair (one of the
 * true top k, one of the rest) lies below the true difference. At a confidence of 1 % misses are frequent.
 */
test("without a miss between the true top and the rest nothing wrong is accepted", () => {
  const [draw, top, tolerance] = [normals(10), 3, 0.1];
  const of = plan({ top, tolerance, conditions: 8, confidence: 0.01, rounds: [4, 16] });
  const tail = (1 - of.confidence) / (top * (of.conditions - top) * of.rounds.length);
  const factors = of.rounds.map((blocks) => -quantile(tail, blocks - 1));
  let [errors, flawless] = [0, 0];
  for (let sweep = 0; sweep < 2000; sweep++) {
    // Rounded, so that there are ties.
    const means = Array.from({ length: 8 }, () => Math.round(2 * draw()) / 8);
    const all = sample(means, 16, draw);
    const ranked = [...means.keys()].sort((a, b) => (means[b] as number) - (means[a] as number) || a - b);
    const missed = ranked.slice(0, top).some((one) =>
      ranked.slice(top).some((other) =>
        of.rounds.some((blocks, round) => {
          const { mean, se } = estimate(
            Float64Array.from({ length: blocks }, (_, at) => (all[one]?.[at] ?? 0) - (all[other]?.[at] ?? 0)),
          );
          return (
            mean + (factors[round] as number) * (se as number) <
            (means[one] as number) - (means[other] as number)
          );
        }),
      ),
    );
    const lowest = (means[ranked[top - 1] as number] as number) - tolerance - 1e-12;
    const wrong = race(of, all).accepted.some((condition) => (means[condition] as number) < lowest);
    if (wrong) {
      errors++;
      expect(missed).toBe(true);
    } else if (!missed) flawless++;
  }
  // Both happen, so the implication says something.
  expect(errors).toBeGreaterThan(20);
  expect(flawless).toBeGreaterThan(100);
});

test("simultaneous intervals cover all effects in all rounds", () => {
  const [sweeps, draw, of] = [150, normals(9), plan({ conditions: 12, rounds: [16, 32] })];
  let missed = 0;
  for (let sweep = 0; sweep < sweeps; sweep++) {
    const all = sample(spread, 32, draw);
    const covered = all.every((values, condition) =>
      of.rounds.every((blocks) => {
        const { mean, se } = estimate(values.subarray(0, blocks));
        const [low, high] = simultaneousInterval(of, mean, se as number, blocks) as [number, number];
        return low <= (spread[condition] as number) && (spread[condition] as number) <= high;
      }),
    );
    if (!covered) missed++;
  }
  expect(missed / sweeps).toBeLessThanOrEqual(0.05 + 2 * Math.sqrt((0.05 * 0.95) / sweeps));
});
