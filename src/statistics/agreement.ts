/** Pure: how far two rankings of the same things agree. */
import type { Interval } from "./effects.ts";

/** 97.5 % point of the standard normal distribution. */
const NORMAL_975 = 1.959963984540054;

export interface RankAgreement {
  /** Things ranked in both. */
  readonly n: number;
  /** Spearman's ρ; null below two things, or where one side ranks nothing apart. */
  readonly rho: number | null;
  /**
   * 95 %, by Fisher's z with the standard error of Bonett and Wright (2000); it takes the things for an independent
   * sample. null below four, or at ρ = ±1, where the formula has nothing to say.
   */
  readonly ci95: Interval | null;
  /** How many things share their value with another, on either side; they get their mean rank. */
  readonly ties: readonly [number, number];
}

/** Rank 1 for the largest value; equal values get the mean of their ranks. */
export function averageRanks(values: readonly number[]): number[] {
  const order = values.map((_, index) => index);
  order.sort((a, b) => (values[b] as number) - (values[a] as number));
  const ranks = new Array<number>(values.length);
  for (let first = 0; first < order.length; ) {
    let next = first + 1;
    while (next < order.length && values[order[next] as number] === values[order[first] as number]) next++;
    for (let at = first; at < next; at++) ranks[order[at] as number] = (first + 1 + next) / 2;
    first = next;
  }
  return ranks;
}

/** Spearman's rank correlation: Pearson's of the mean ranks, right with ties too. */
export function spearman(a: readonly number[], b: readonly number[]): RankAgreement {
  if (a.length !== b.length) throw new RangeError("an agreement needs both rankings of the same things");
  const [left, right] = [averageRanks(a), averageRanks(b)];
  const rho = correlation(left, right);
  return { n: a.length, rho, ci95: intervalOf(rho, a.length), ties: [tied(a), tied(b)] };
}

function correlation(a: readonly number[], b: readonly number[]): number | null {
  // Ranks with their ties averaged always sum to n(n + 1)/2.
  const mean = (a.length + 1) / 2;
  let [product, squaresA, squaresB] = [0, 0, 0];
  for (const [index, rank] of a.entries()) {
    const [x, y] = [rank - mean, (b[index] as number) - mean];
    product += x * y;
    squaresA += x * x;
    squaresB += y * y;
  }
  if (squaresA === 0 || squaresB === 0) return null;
  return Math.max(-1, Math.min(1, product / Math.sqrt(squaresA * squaresB)));
}

function intervalOf(rho: number | null, n: number): Interval | null {
  if (rho === null || n < 4 || Math.abs(rho) === 1) return null;
  const reach = NORMAL_975 * Math.sqrt((1 + rho ** 2 / 2) / (n - 3));
  const z = Math.atanh(rho);
  return [Math.tanh(z - reach), Math.tanh(z + reach)];
}

function tied(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts.values()].reduce((total, count) => total + (count > 1 ? count : 0), 0);
}

export interface TopOverlap {
  readonly k: number;
  /** Things among the k largest of both. */
  readonly shared: number;
  /** What two unrelated rankings share on average: k² / n. */
  readonly by_chance: number;
}

/** @param order of the first, of the second ranking: the same n things, the largest first. */
export function topOverlap(order: readonly [readonly number[], readonly number[]], k: number): TopOverlap {
  const [first, second] = [new Set(order[0].slice(0, k)), order[1].slice(0, k)];
  return {
    k,
    shared: second.filter((thing) => first.has(thing)).length,
    by_chance: k ** 2 / order[0].length,
  };
}
