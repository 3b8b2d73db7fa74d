/**
 * `stop:`: which conditions of a sweep need more blocks to settle the k largest effects, or the k smallest.
 *
 * Conditions race in rounds of 16, 32, 64, … blocks. At the end of a round every pair that is still
 * running is compared on the blocks both have, by a one-sided t bound on the mean of their block
 * differences (the baseline cancels). With m places of the top k still open among the conditions not
 * yet accepted,
 * - one is accepted when fewer than m others may exceed it by more than the tolerance;
 * - one is out when at least m others are better for certain.
 *
 * Which bounds have to hold. Let T be the k conditions with the largest true effects (ties by index):
 * unknown, but fixed before anything is measured. Call it a miss when, in some round, the bound of an
 * ordered pair (i in T, j not in T) lies below its true difference μᵢ − μⱼ. Without a miss
 * 1. at least m of T are running before every decision. At first all k are, and m = k. An acceptance
 *    takes at most one of them and always one place. Of those of T that run, the m with the largest
 *    observed means stay: to be out, one needs m others with larger observed means that are better for
 *    certain. By the choice of the m, one of these others is not in T, and is called better than a member
 *    of T for certain: a miss.
 * 2. an accepted condition lies at most the tolerance below the k-th largest effect. Else it is not in T,
 *    each of the m or more of T that run exceeds it by more than the tolerance, and for one of them the
 *    bound denies it: a miss. Those accepted because no more than m are left are all of T, by 1.
 * So the tolerance is spent once, never along a chain of comparisons, and the error is at most the sum
 * over k (n − k) ordered pairs and the rounds, among which it is divided evenly. That the data choose who
 * is compared with whom costs no more: all other pairs may miss and no harm is done. For k = 1 this is the
 * count of Kim and Nelson (ACM TOMACS 11, 2001: n − 1 pairs with the best, with elimination); for k > 1
 * and one round it is Bechhofer's (Ann. Math. Statist. 25, 1954: k (n − k) differences).
 *
 * The guarantee is approximate, because the t bound is: at such small tails it is too narrow for skewed
 * differences.
 */
import quantile from "@stdlib/stats-base-dists-t-quantile";
import type { Interval } from "./effects.ts";

/** Which effects a race is for: the largest, or the smallest. */
export type Edge = "top" | "bottom";

/** What `stop:` asks for, and when it decides. */
export interface RacePlan {
  /** How many of the largest effects to settle; absent where it is the smallest. */
  readonly top?: number | undefined;
  /** How many of the smallest effects to settle, those below 0 before all others; absent where it is the largest. */
  readonly bottom?: number | undefined;
  /** Approximate: see docs/statistics.md. */
  readonly confidence: number;
  /** Nats per token; effects this close to the edge may be taken for one another. */
  readonly tolerance: number;
  /** Conditions at the start, failed ones included. */
  readonly conditions: number;
  /** Blocks at the end of each round, ascending; fixed before anything is measured. */
  readonly rounds: readonly number[];
}

export interface Race {
  /** Still measured, the largest effect first; of a race for the smallest, the smallest. */
  readonly active: readonly number[];
  /** Blocks that every active condition needs before the next decision. */
  readonly target: number;
  /** Among the k with the asked confidence, in the order of their acceptance. */
  readonly accepted: readonly number[];
  /** The accepted; at the end of an unsettled race filled up with the largest effects, or the smallest. */
  readonly chosen: readonly number[];
  /** Rounds that have been decided. */
  readonly decided: number;
  /** True where the top k stands with the asked confidence. */
  readonly settled: boolean;
  /** True where no more blocks are wanted: settled, or every round is over. */
  readonly finished: boolean;
}

/** What a race says of a condition, among the row's flags. */
export const RACE_FLAGS = {
  /** One of the k largest, or smallest, with the race's confidence. */
  top: "in the top",
  bottom: "in the bottom",
  /** Among them when the blocks ran out. */
  leading: "leading, not settled",
} as const;

const FIRST_ROUND_BLOCKS = 16;

export const edgeOf = ({ bottom }: Pick<RacePlan, "bottom">): Edge =>
  bottom === undefined ? "top" : "bottom";

/** How many are to be settled. */
export const placesOf = ({ top, bottom }: Pick<RacePlan, Edge>): number => top ?? bottom ?? 0;

/** 16, 32, 64, … up to all blocks, each a whole number of batches: a round ends where a batch does. */
export function roundsFor(blocks: number, batchSize: number): number[] {
  const rounds: number[] = [];
  for (let end = FIRST_ROUND_BLOCKS; end < blocks; end *= 2) {
    const whole = Math.ceil(end / batchSize) * batchSize;
    if (whole < blocks && whole > (rounds.at(-1) ?? 0)) rounds.push(whole);
  }
  return [...rounds, blocks];
}

/**
 * The race as far as the measurements decide it. Pure: the same measurements give the same
 * decisions, however often and in whatever pieces a run was interrupted; blocks beyond a
 * condition's last round are ignored.
 *
 * @param effects a condition's Δ NLL a token, a block each, from block 0 on; null where it failed
 */
export function race(plan: RacePlan, effects: readonly (Float64Array | null)[]): Race {
  const places = placesOf(plan);
  // The smallest effects are the largest with the sign turned: the same race, the same proof.
  const sign = edgeOf(plan) === "top" ? 1 : -1;
  let active = effects.flatMap((values, condition) => (values === null ? [] : [condition]));
  const accepted: number[] = [];
  for (const [round, blocks] of plan.rounds.entries()) {
    const samples = active.map((condition) => (effects[condition] as Float64Array).subarray(0, blocks));
    if (samples.some(({ length }) => length < blocks)) {
      return {
        active,
        target: blocks,
        accepted,
        chosen: accepted,
        decided: round,
        settled: false,
        finished: false,
      };
    }
    const entrants = active
      .map((condition, index) => entrant(condition, samples[index] as Float64Array, sign))
      .sort((a, b) => b.mean - a.mean || a.condition - b.condition);
    const running = decide(entrants, plan, blocks, accepted);
    active = running.map(({ condition }) => condition);
    const settled = accepted.length === places || active.length === 0;
    if (settled || round === plan.rounds.length - 1) {
      const chosen = [...accepted, ...active.slice(0, places - accepted.length)];
      return { active: [], target: blocks, accepted, chosen, decided: round + 1, settled, finished: true };
    }
  }
  throw new RangeError("a race needs at least one round");
}

/**
 * Interval of one condition's effect that holds together with those of all other conditions in all
 * rounds; null with fewer than two blocks.
 */
export function simultaneousInterval(
  plan: RacePlan,
  mean: number,
  se: number,
  blocks: number,
): Interval | null {
  if (blocks < 2) return null;
  const tail = (1 - plan.confidence) / (2 * plan.conditions * plan.rounds.length);
  const width = -quantile(tail, blocks - 1) * se;
  return [mean - width, mean + width];
}

interface Entrant {
  readonly condition: number;
  readonly mean: number;
  readonly values: Float64Array;
}

function entrant(condition: number, values: Float64Array, sign: 1 | -1): Entrant {
  const signed = sign === 1 ? values : values.map((value) => -value);
  return { condition, mean: meanOf(signed), values: signed };
}

/** Decides one round; adds to `accepted`, returns who runs on in the order given (largest mean first). */
function decide(entrants: readonly Entrant[], plan: RacePlan, blocks: number, accepted: number[]): Entrant[] {
  // One block says nothing about spread.
  if (blocks < 2) return [...entrants];
  const places = placesOf(plan);
  const pairs = Math.max(1, places * (plan.conditions - places));
  const tail = (1 - plan.confidence) / (pairs * plan.rounds.length);
  const factor = -quantile(tail, blocks - 1) / Math.sqrt(blocks);
  /** Most by which `a`'s true effect exceeds `b`'s. */
  const excess = (a: Entrant, b: Entrant): number => {
    const spread = deviationOfDifference(a, b);
    // The same difference in every block is no proof of certainty (effects.ts says why).
    if (spread === 0) return a.mean === b.mean ? 0 : Number.POSITIVE_INFINITY;
    return a.mean - b.mean + factor * spread;
  };

  let running = [...entrants];
  let index = 0;
  while (index < Math.min(running.length, places - accepted.length)) {
    const candidate = running[index] as Entrant;
    const mayExceed = (other: Entrant) => other !== candidate && excess(other, candidate) > plan.tolerance;
    if (fewer(running, places - accepted.length, mayExceed)) {
      accepted.push(candidate.condition);
      running.splice(index, 1);
      // One place less is open: those before it are judged again.
      index = 0;
    } else {
      index++;
    }
  }
  const open = places - accepted.length;
  running = running.filter((candidate) =>
    fewer(running, open, (other) => other.mean > candidate.mean && excess(candidate, other) < 0),
  );
  if (running.length <= open) {
    accepted.push(...running.map(({ condition }) => condition));
    return [];
  }
  return running;
}

/** Whether fewer than `limit` of the entrants are such; stops counting there. */
function fewer(entrants: readonly Entrant[], limit: number, such: (entrant: Entrant) => boolean): boolean {
  let count = 0;
  for (const entrant of entrants) {
    if (count >= limit) return false;
    if (such(entrant)) count++;
  }
  return count < limit;
}

function deviationOfDifference(a: Entrant, b: Entrant): number {
  const shift = a.mean - b.mean;
  let squares = 0;
  for (let block = 0; block < a.values.length; block++) {
    squares += ((a.values[block] as number) - (b.values[block] as number) - shift) ** 2;
  }
  return Math.sqrt(squares / (a.values.length - 1));
}

function meanOf(values: Float64Array): number {
  let total = 0;
  for (const value of values) total += value;
  return total / values.length;
}
