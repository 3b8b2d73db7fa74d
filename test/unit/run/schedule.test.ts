import { describe, expect, it } from "vitest";
import { batches, Rate } from "../../../src/plan/slices.ts";
import { Schedule, type Slice } from "../../../src/run/schedule.ts";

/** Mulberry32: uniform in [0, 1), the same for the same seed. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface World {
  readonly conditions: number;
  readonly blocks: number;
  readonly slots: number;
  /** Blocks before which it is decided what goes on. */
  readonly decisions: readonly number[];
  readonly seed: number;
}

/**
 * Works through a schedule: slices end in any order, some die half-way, some are cut short. Returns how often each
 * (batch, condition) was measured, and what was measured when each batch was opened.
 */
function workThrough({ conditions, blocks, slots, decisions, seed }: World) {
  const random = seeded(seed);
  const rate = new Rate();
  const shape = batches(blocks, 4);
  const measured = new Map<string, number>();
  const opened: { first: number; measured: number }[] = [];
  const schedule = new Schedule({
    batches: shape,
    sizes: [],
    rate,
    decidesBefore: (block) => decisions.includes(block),
    missingOn: ([first = 0]) => {
      opened.push({ first, measured: measured.size });
      return Array.from({ length: conditions }, (_, condition) => condition);
    },
  });
  const underWay: Slice[] = [];
  let mostUnderWay = 0;
  for (;;) {
    while (underWay.length < slots) {
      const slice = schedule.next(slots);
      if (slice === null) break;
      underWay.push(slice);
    }
    mostUnderWay = Math.max(mostUnderWay, underWay.length);
    if (underWay.length === 0) break;
    const [{ batch, conditions: slice }] = underWay.splice(Math.floor(random() * underWay.length), 1) as [
      Slice,
    ];
    const whole = random() < 0.8;
    for (const condition of whole ? slice : slice.slice(0, Math.floor(random() * slice.length))) {
      const key = `${batch.ordinal} ${condition}`;
      measured.set(key, (measured.get(key) ?? 0) + 1);
      batch.planner.settle(condition);
    }
    if (whole) {
      rate.observe(slice.length * 0.5, slice.length);
      batch.planner.ended(slice);
    } else if (batch.planner.died(slice) !== null) {
      batch.planner.ended(slice);
    }
    schedule.forgetFinished();
  }
  return { measured, opened, mostUnderWay, shape };
}

describe("a schedule", () => {
  it("gives every condition of every batch once, whatever the order in which slices end", () => {
    for (let seed = 0; seed < 60; seed++) {
      const world = { conditions: 1 + seed * 7, blocks: 1 + ((seed * 5) % 40), slots: 1 + (seed % 9), seed };
      const { measured, opened, shape } = workThrough({ ...world, decisions: [] });
      expect(measured.size, JSON.stringify(world)).toBe(world.conditions * shape.length);
      expect(new Set(measured.values())).toEqual(new Set([1]));
      expect(opened.map(({ first }) => first)).toEqual(shape.map(([first]) => first));
    }
  });

  it("asks what a batch needs after a decision only once every batch before it is whole", () => {
    for (let seed = 0; seed < 60; seed++) {
      const decisions = [16, 32];
      const world = { conditions: 3 + seed, blocks: 48, slots: 1 + (seed % 9), decisions, seed };
      const { measured, opened } = workThrough(world);
      expect(measured.size).toBe(world.conditions * 12);
      for (const { first, measured: before } of opened)
        if (decisions.includes(first)) expect(before, `before ${first}`).toBe((world.conditions * first) / 4);
    }
  });

  it("keeps all slots busy across batches, and begins a batch before the last one is whole", () => {
    const { opened, mostUnderWay } = workThrough({
      conditions: 40,
      blocks: 64,
      slots: 8,
      decisions: [],
      seed: 1,
    });
    expect(mostUnderWay).toBe(8);
    expect(opened[1]?.measured).toBeLessThan(40);
  });

  it("gives up a condition on every batch at once", () => {
    const schedule = new Schedule({
      batches: batches(8, 4),
      sizes: [],
      rate: new Rate(0.1),
      decidesBefore: () => false,
      missingOn: () => [0, 1, 2],
    });
    const first = schedule.next(1) as Slice;
    expect(first.conditions).toEqual([0, 1, 2]);
    schedule.giveUp(1);
    expect(first.batch.planner.ended(first.conditions)).toEqual([0, 2]);
    expect(schedule.next(1)?.conditions).toEqual([0, 2]);
    expect(schedule.next(1)?.conditions).toEqual([0, 2]);
    expect(schedule.next(1)).toBeNull();
  });
});
