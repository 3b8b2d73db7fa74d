/** How often `stop:` errs, and what it saves. */
import { estimate } from "../../src/statistics/effects.ts";
import { type Race, type RacePlan, race, roundsFor } from "../../src/statistics/racing.ts";
import { uniforms } from "../../test/unit/statistics/random.ts";
import { WELL_BEHAVED } from "./families.ts";
import { type Heads, measuredHeads, onBlocks } from "./heads.ts";

const TOP = 5;
const CONFIDENCE = 0.95;
/** Distances of the first condition outside the top from the last inside, in tolerances. */
const GAPS = [0, 0.5, 1, 2];

export interface RaceResult {
  readonly family: string;
  readonly tolerance: number;
  readonly gap: number;
  /** Share of sweeps in which a settled condition lies further than the tolerance below the k-th. */
  readonly errors: number;
  readonly settled: number;
  /** Measurements as a share of the uniform run's. */
  readonly cost: number;
}

/** Up to 128 blocks: 40 conditions that do not depend on each other, half a block's sd the tolerance. */
export function racing(rounds: number): RaceResult[] {
  const [conditions, tolerance, blocks] = [40, 0.5, 128];
  return WELL_BEHAVED.flatMap(({ name, blocks: values }, which) =>
    GAPS.map((gap) => {
      const means = Array.from({ length: conditions }, (_, rank) =>
        rank < TOP ? (TOP - 1 - rank) * 0.5 : -gap * tolerance - (rank - TOP) * 0.1,
      );
      const draw = values(10 * which + gap + 1);
      const sweep = () => means.map((mean) => Float64Array.from({ length: blocks }, () => mean + draw()));
      return { family: name, gap, ...errorsOf(means, tolerance, blocks, sweep, rounds) };
    }),
  );
}

/**
 * SmolLM2's heads on up to 128 of their blocks, drawn with replacement; those outside the top are moved, all
 * by the same amount, until the gap at the edge is the planted one.
 */
export function headRacing(rounds: number): RaceResult[] {
  const blocks = 128;
  const effects = measuredHeads().effects.toSorted((a, b) => meanOf(b) - meanOf(a));
  const [last, next] = [effects[TOP - 1], effects[TOP]] as [Float64Array, Float64Array];
  const edge = estimate(last);
  const half = 0.5 * (edge.se as number) * Math.sqrt(last.length);
  return [half, 0.002].flatMap((tolerance) =>
    GAPS.map((gap) => {
      const shift = meanOf(last) - gap * tolerance - meanOf(next);
      const moved = effects.map((values, rank) =>
        rank < TOP ? values : values.map((value) => value + shift),
      );
      const uniform = uniforms(10 * gap + 3);
      const sweep = () => onBlocks(moved, drawn(last.length, blocks, uniform));
      return {
        family: "SmolLM2's heads",
        gap,
        ...errorsOf(moved.map(meanOf), tolerance, blocks, sweep, rounds),
      };
    }),
  );
}

function errorsOf(
  means: readonly number[],
  tolerance: number,
  blocks: number,
  sweep: () => Float64Array[],
  rounds: number,
): Omit<RaceResult, "family" | "gap"> {
  const plan = planFor(means.length, tolerance, blocks);
  const errs = errsOn(means, tolerance);
  let [errors, settled, used, uniform] = [0, 0, 0, 0];
  for (let round = 0; round < rounds; round++) {
    const { state, measured } = run(plan, sweep());
    if (state.settled) settled++;
    if (errs(state)) errors++;
    used += total(measured);
    uniform += means.length * state.target;
  }
  return { tolerance, errors: errors / rounds, settled: settled / rounds, cost: used / uniform };
}

export interface Saving {
  /** How the blocks come about, and how many there are at most. */
  readonly text: string;
  readonly blocks: number;
  readonly settled: number;
  /** Share of orders in which a settled head lies further than the tolerance below the 5th. */
  readonly errors: number;
  /** How many of the top are decided at the end, on average. */
  readonly accepted: number;
  /** Blocks after which the uniform run stops, on average. */
  readonly uniform: number;
  /** The race's share of the uniform run's measurements, and of its forward passes, the baseline's included. */
  readonly measurements: number;
  readonly forwards: number;
}

/** The top 5 of SmolLM2's heads at 95 %, tolerance 0.002, mean over `orders` orders of the blocks. */
export function headSavings(orders: number): Saving[] {
  const heads = measuredHeads();
  const uniform = uniforms(99);
  return [
    savingsOf(heads, "the measured blocks, in random order", orders, () => shuffled(heads.blocks, uniform)),
    ...[256, 1024, 16_384].map((blocks) =>
      savingsOf(heads, "drawn from them with replacement", orders, () =>
        drawn(heads.blocks, blocks, uniform),
      ),
    ),
  ];
}

function savingsOf(
  { effects, forwards }: Heads,
  text: string,
  orders: number,
  order: () => Int32Array,
): Saving {
  const blocks = order().length;
  const plan = planFor(effects.length, 0.002, blocks);
  const errs = errsOn(effects.map(meanOf), plan.tolerance);
  const sums = { settled: 0, errors: 0, accepted: 0, blocks: 0, measurements: 0, forwards: 0 };
  const whole = { measurements: effects.length, forwards: 1 + total(forwards) };
  for (let index = 0; index < orders; index++) {
    const { state, measured } = run(plan, onBlocks(effects, order()));
    if (state.settled) sums.settled++;
    if (errs(state)) sums.errors++;
    sums.accepted += state.accepted.length;
    sums.blocks += state.target;
    sums.measurements += total(measured);
    sums.forwards += state.target + total(measured.map((count, head) => count * (forwards[head] as number)));
  }
  return {
    text,
    blocks,
    settled: sums.settled / orders,
    errors: sums.errors / orders,
    accepted: sums.accepted / orders,
    uniform: sums.blocks / orders,
    measurements: sums.measurements / (whole.measurements * sums.blocks),
    forwards: sums.forwards / (whole.forwards * sums.blocks),
  };
}

/** Whether a race let in what lies further than the tolerance below the k-th largest of the true effects. */
function errsOn(means: readonly number[], tolerance: number): (state: Race) => boolean {
  const edge = means.toSorted((a, b) => b - a)[TOP - 1] as number;
  return ({ accepted }) =>
    accepted.some((condition) => (means[condition] as number) < edge - tolerance - 1e-9);
}

function planFor(conditions: number, tolerance: number, blocks: number): RacePlan {
  return { top: TOP, confidence: CONFIDENCE, tolerance, conditions, rounds: roundsFor(blocks, 4) };
}

/**
 * A whole race: its end, and the blocks that each condition was measured on. A uniform run with the same
 * bounds, schedule and order comes to the same end after the same round (what is out has no part in later
 * decisions), with every condition measured on `state.target` blocks.
 */
function run(plan: RacePlan, effects: readonly Float64Array[]): { state: Race; measured: number[] } {
  const measured = effects.map(() => 0);
  let state = race(
    plan,
    effects.map((values) => values.subarray(0, 0)),
  );
  while (!state.finished) {
    const { active, target } = state;
    for (const condition of active) measured[condition] = target;
    state = race(
      plan,
      effects.map((values) => values.subarray(0, target)),
    );
  }
  return { state, measured };
}

function drawn(from: number, count: number, uniform: () => number): Int32Array {
  return Int32Array.from({ length: count }, () => Math.floor(from * uniform()));
}

/** Fisher–Yates. */
function shuffled(count: number, uniform: () => number): Int32Array {
  const order = Int32Array.from({ length: count }, (_, index) => index);
  for (let index = count - 1; index > 0; index--) {
    const other = Math.floor((index + 1) * uniform());
    [order[index], order[other]] = [order[other] as number, order[index] as number];
  }
  return order;
}

function total(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

function meanOf(values: Float64Array): number {
  return total([...values]) / values.length;
}
