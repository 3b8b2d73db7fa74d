/** The search beside brute force: values of sets are made up, and every subset's is known. */
import { describe, expect, test } from "vitest";
import {
  type Answer,
  type Ask,
  type Best,
  type Effect,
  search,
  searchEverywhere,
  type UnitSet,
} from "../../../src/prune/search.ts";
import { normals } from "../statistics/random.ts";

type Value = (set: UnitSet) => number;

/** Answers without noise. */
function run(units: number, value: Value, sizes = units - 1, swaps = 3) {
  const all = Array.from({ length: units }, (_, unit) => unit);
  const asked: Ask[] = [];
  const work = search({ units: [all], floor: 0, goesOn: (best) => best.length < sizes, swaps });
  let next = work.next();
  while (!next.done) {
    const ask = next.value;
    asked.push(ask);
    next = work.next(answer(ask, value));
  }
  return { best: next.value, asked };
}

function answer(ask: Ask, value: Value): Answer {
  if (ask.kind === "sets") return { values: ask.sets.map(value) };
  if (ask.kind === "challenge") {
    const values = ask.sets.map(value);
    const least = Math.min(...values);
    const winner = least < value(ask.incumbent) ? values.indexOf(least) : null;
    // Some ran on all blocks, others did not.
    const estimates = values.map((each, index) => ({ value: each, whole: index % 2 === 0 }));
    return { winner, estimates };
  }
  const base = ask.given.length === 0 ? 0 : value(ask.given);
  const joint = (unit: number) => value([...ask.given, unit].sort((a, b) => a - b));
  const ranked = ask.candidates.map((unit, index) => ({
    unit,
    effect: joint(unit) - base,
    value: index % 3 === 0 ? joint(unit) : null,
  }));
  return { ranked: ranked.sort((a, b) => a.effect - b.effect || a.unit - b.unit) };
}

function greedy(units: number, value: Value, sizes: number): Best[] {
  const best: Best[] = [];
  let set: UnitSet = [];
  while (best.length < sizes) {
    const next = Array.from({ length: units }, (_, unit) => unit)
      .filter((unit) => !set.includes(unit))
      .map((unit) => [...set, unit].sort((a, b) => a - b))
      .map((candidate) => ({ set: candidate, value: value(candidate) }))
      .reduce((least, each) => (each.value < least.value ? each : least));
    best.push(next);
    set = next.set;
  }
  return best;
}

/** A value for each subset: units' own, pairs', and some of its own. */
function landscape(units: number, seed: number, pairs: number): Value {
  const draw = normals(seed);
  const own = Array.from({ length: units }, () => Math.abs(draw()));
  const joint = Array.from({ length: units * units }, () => pairs * draw());
  return (set) =>
    set.reduce((sum, unit, index) => {
      const others = set
        .slice(0, index)
        .reduce((more, other) => more + (joint[other * units + unit] as number), 0);
      return sum + (own[unit] as number) + others;
    }, 0);
}

const subsets = (units: number, size: number): UnitSet[] =>
  Array.from({ length: 2 ** units }, (_, bits) =>
    Array.from({ length: units }, (_, unit) => unit).filter((unit) => bits & (1 << unit)),
  ).filter(({ length }) => length === size);

describe("a search that takes one out of every layer", () => {
  test("measures each layer's least together, and leaves one in each", () => {
    const value = landscape(9, 4, 0.2);
    const units = [
      [0, 1, 2],
      [3, 4, 5],
      [6, 7, 8],
    ];
    const work = searchEverywhere({ units, takes: [1, 1], goesOn: () => true });
    const asked: Ask[] = [];
    let next = work.next();
    while (!next.done) {
      asked.push(next.value);
      next = work.next(answer(next.value, value));
    }
    expect(next.value.map(({ set }) => set.length)).toEqual([3, 6]);
    expect(asked.map(({ kind }) => kind)).toEqual(["step", "sets", "step", "sets"]);
    let gone: UnitSet = [];
    for (const { set, value: reached } of next.value) {
      expect(reached).toBe(value(set));
      const beside = (unit: number) => value([...gone, unit].sort((a, b) => a - b));
      for (const layer of units) {
        const left = layer.filter((unit) => !gone.includes(unit));
        const least = left.reduce((low, unit) => (beside(unit) < beside(low) ? unit : low));
        expect(set.filter((unit) => left.includes(unit))).toEqual([least]);
      }
      gone = set;
    }
  });
});

describe("a search that takes several out of every layer", () => {
  test("offers each layer's first ones, takes the least harmful, and ends where a layer has too few", () => {
    const value = landscape(12, 6, 0.2);
    const units = [
      [0, 1, 2, 3, 4, 5],
      [11, 10, 9, 8, 7, 6],
    ];
    const work = searchEverywhere({ units, takes: [2, 1, 2], offers: 2, goesOn: () => true });
    const offered: UnitSet[] = [];
    const failing = 8;
    let next = work.next();
    while (!next.done) {
      const told = answer(next.value, value);
      if (next.value.kind === "step") offered.push(next.value.candidates);
      next = work.next(
        "ranked" in told ? { ranked: told.ranked.filter(({ unit }) => unit !== failing) } : told,
      );
    }
    const [first, second] = next.value as [Best, Best];
    expect(offered[0]).toEqual([0, 1, 2, 3, 11, 10, 9, 8]);
    const least = (layer: UnitSet) => [...layer].sort((a, b) => value([a]) - value([b])).slice(0, 2);
    expect(first.set).toEqual([...least([0, 1, 2, 3]), ...least([11, 10, 9])].sort((a, b) => a - b));
    expect(second.set.filter((unit) => !first.set.includes(unit))).toHaveLength(2);
    // Of the second layer 7, 6 and what fails are left.
    expect(next.value.map(({ set }) => set.length)).toEqual([4, 6, 10]);
    expect(second.value).toBe(value(second.set));
  });
});

describe("the search", () => {
  test("is at least as good as plain greedy in every size, and no set is called better than the best there is", () => {
    const found = { optimal: 0, sizes: 0, better: 0 };
    for (let seed = 1; seed <= 60; seed++) {
      const value = landscape(7, seed, 0.6);
      const plain = greedy(7, value, 6);
      const { best } = run(7, value);
      expect(best).toHaveLength(6);
      for (const [index, { set, value: reached }] of best.entries()) {
        const least = Math.min(...subsets(7, index + 1).map(value));
        expect(set).toHaveLength(index + 1);
        expect(reached).toBe(value(set));
        expect(reached).toBeLessThanOrEqual((plain[index] as Best).value);
        expect(reached).toBeGreaterThanOrEqual(least);
        found.sizes++;
        if (reached === least) found.optimal++;
        if (reached < (plain[index] as Best).value) found.better++;
      }
    }
    expect(found.optimal / found.sizes).toBeGreaterThan(0.9);
    expect(found.better).toBeGreaterThan(10);
  });

  test("where effects add up it is the greedy path, and nothing is put back", () => {
    const value = landscape(8, 5, 0);
    const { best, asked } = run(8, value, 5);
    expect(best).toEqual(greedy(8, value, 5));
    expect(asked.filter(({ kind }) => kind === "step")).toHaveLength(5);
  });

  test("puts a unit back where the set is better without it, and goes on from there", () => {
    // 0 is the best alone; 1 and 2 are good together, and best without 0.
    const costs = new Map([
      ["0", 1],
      ["1", 2],
      ["2", 3],
      ["3", 9],
      ["0,1", 5],
      ["0,2", 6],
      ["1,2", 0.5],
      ["0,3", 12],
      ["1,3", 12],
      ["2,3", 12],
      ["0,1,2", 5.5],
      ["0,1,3", 20],
      ["0,2,3", 20],
      ["1,2,3", 3],
    ]);
    const { best, asked } = run(4, (set) => costs.get(set.join()) as number);
    expect(best.map(({ set }) => set)).toEqual([[0], [1, 2], [1, 2, 3]]);
    expect(asked.some((ask) => ask.kind === "step" && ask.given.join() === "1,2")).toBe(true);
  });

  test("ends where a floor hides what is better, and where all are equal", () => {
    const { best, asked } = run(6, (set) => set.length);
    expect(best).toHaveLength(5);
    expect(asked.length).toBeLessThan(40);
  });

  test("a set that fails is passed over; where all fail the path ends", () => {
    const value = landscape(5, 3, 0.3);
    const [first] = greedy(5, value, 1) as [Best];
    const failing = (fails: (set: UnitSet) => boolean) => {
      const units = [0, 1, 2, 3, 4];
      const work = search({ units: [units], floor: 0, goesOn: (best) => best.length < 2, swaps: 3 });
      let next = work.next();
      while (!next.done) {
        const ask = next.value;
        const told = answer(ask, value);
        const unknown = (effects: readonly Effect[]) => effects.map((effect) => ({ ...effect, value: null }));
        if ("ranked" in told) next = work.next({ ranked: unknown(told.ranked) });
        else if (ask.kind === "sets" && "values" in told) {
          const values = told.values.map((each, index) => (fails(ask.sets[index] as UnitSet) ? null : each));
          next = work.next({ values });
        } else next = work.next(told);
      }
      return next.value;
    };
    expect(failing((set) => set.join() === first.set.join())[0]?.set).not.toEqual(first.set);
    expect(failing(() => true)).toEqual([]);
  });
});
