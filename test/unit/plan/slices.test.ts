import { describe, expect, it } from "vitest";
import { batches, firstLayer, Rate, SlicePlanner, workOrder } from "../../../src/plan/slices.ts";
import type { Condition } from "../../../src/protocol/messages.ts";

const skip = (layer: number): Condition => ({
  id: `L${layer}.layer.skip`,
  interventions: [{ kind: "layer", layer, mode: "skip" }],
});
const baseline: Condition = { id: "baseline", interventions: [] };

describe("work order", () => {
  it("puts the baseline first and conditions by their first edited layer", () => {
    const joint: Condition = {
      id: "joint",
      interventions: [...skip(5).interventions, ...skip(1).interventions],
    };
    const everywhere: Condition = {
      id: "direction",
      interventions: [
        {
          kind: "direction",
          op: "project_out",
          at: "writes",
          layers: "all",
          coefficient: 1,
          positions: "all",
          sha256: "0".repeat(64),
        },
      ],
    };
    expect([skip(3), joint, everywhere, baseline].map(firstLayer)).toEqual([3, 1, -1, -2]);
    expect(workOrder([skip(3), joint, skip(0), everywhere, baseline])).toEqual([4, 3, 2, 1, 0]);
  });
});

describe("batches", () => {
  it("hold every block once, in order, in one shape but for the last", () => {
    expect(batches(10, 4)).toEqual([
      [0, 1, 2, 3],
      [4, 5, 6, 7],
      [8, 9],
    ]);
    expect(batches(0, 4)).toEqual([]);
  });
});

/** Runs a planner against a worker that dies whenever its slice reaches a poisonous condition. */
function drive(all: readonly number[], rate: Rate, poison: ReadonlySet<number>) {
  const planner = new SlicePlanner(all, [], rate);
  const measured: number[] = [];
  const condemned: number[] = [];
  let deaths = 0;
  for (let slice = planner.next(); slice !== null; slice = planner.next()) {
    expect(slice.length).toBeLessThanOrEqual(256);
    let died = false;
    for (const condition of slice) {
      if (poison.has(condition)) {
        died = true;
        break;
      }
      measured.push(condition);
      planner.settle(condition);
    }
    if (!died) {
      rate.observe(slice.length * 0.01, slice.length);
      continue;
    }
    deaths++;
    const guilty = planner.died(slice);
    if (guilty !== null) {
      condemned.push(guilty);
      planner.settle(guilty);
    }
  }
  return { measured, condemned, deaths };
}

describe("slices", () => {
  it("cover what is missing once, in order, sized to the rate", () => {
    const all = Array.from({ length: 1000 }, (_, index) => index);
    const { measured, deaths } = drive(all, new Rate(), new Set());
    expect(measured).toEqual(all);
    expect(deaths).toBe(0);
    expect(new SlicePlanner(all).next()).toEqual([0]);
    expect(new SlicePlanner(all, [], new Rate(2)).next()).toHaveLength(10);
    expect(new SlicePlanner(all, [], new Rate(1000)).next()).toHaveLength(1);
    expect(new SlicePlanner([]).next()).toBeNull();
    // Half of what an envelope holds, and at least one condition.
    const sizes = all.map(() => 200_000);
    expect(new SlicePlanner(all, sizes, new Rate(0.01)).next()).toEqual([0, 1]);
    expect(
      new SlicePlanner(
        all,
        all.map(() => 900_000),
        new Rate(0.01),
      ).next(),
    ).toEqual([0]);
  });

  it("give up exactly the conditions that kill the worker alone twice, after few deaths", () => {
    const all = Array.from({ length: 600 }, (_, index) => index);
    for (const poison of [[0], [599], [17, 18], [5, 300, 301, 599]]) {
      const { measured, condemned, deaths } = drive(all, new Rate(0.01), new Set(poison));
      expect(condemned).toEqual(poison);
      expect(measured).toEqual(all.filter((condition) => !poison.includes(condition)));
      // log₂(256) halvings and two deaths alone, at the most, for each.
      expect(deaths).toBeLessThanOrEqual(poison.length * 10);
    }
  });
});
