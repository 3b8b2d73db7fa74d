/** How often a 95 % interval holds the true mean, and how many discoveries are false. */
import { estimate, median } from "../../src/statistics/effects.ts";
import { adjust } from "../../src/statistics/multiplicity.ts";
import { uniforms } from "../../test/unit/statistics/random.ts";
import { type Draw, FAMILIES, WELL_BEHAVED } from "./families.ts";
import { measuredHeads } from "./heads.ts";

/** Sample sizes of the coverage table. */
export const BLOCKS = [8, 16, 32, 64];

export interface Coverage {
  readonly family: string;
  /** For each of BLOCKS: share of 95 % intervals that hold the true mean, and share flagged as skewed. */
  readonly covered: readonly number[];
  readonly skewed: readonly number[];
}

export function coverage(rounds: number): Coverage[] {
  return FAMILIES.map(({ name, mean, blocks }, family) => {
    const shares = BLOCKS.map((count) => holds(mean, count, blocks(1000 * family + count), rounds));
    return {
      family: name,
      covered: shares.map(({ covered }) => covered),
      skewed: shares.map(({ skewed }) => skewed),
    };
  });
}

/** For each of BLOCKS, over SmolLM2's heads: the median and the worst coverage, and how often they are flagged. */
export interface HeadCoverage {
  readonly median: Coverage;
  readonly worst: Coverage;
  readonly heads: number;
  /** Share of heads covered in fewer than 93 % of the samples. */
  readonly below: readonly number[];
}

/** Each head's measured block differences, drawn from with replacement; their mean is the truth. */
export function headCoverage(rounds: number): HeadCoverage {
  const { effects } = measuredHeads();
  const columns = BLOCKS.map((count) =>
    effects
      .map((values, head) => {
        const uniform = uniforms(1000 * head + count);
        const draw = () => values[Math.floor(values.length * uniform())] as number;
        return holds(estimate(values).mean, count, draw, rounds);
      })
      .sort((a, b) => a.covered - b.covered),
  );
  const of = (family: string, pick: (column: readonly Held[]) => Held): Coverage => ({
    family,
    covered: columns.map((column) => pick(column).covered),
    skewed: columns.map((column) => pick(column).skewed),
  });
  const middle = (of: (held: Held) => number) => (column: readonly Held[]) =>
    median(column.map(of)) as number;
  return {
    median: of("SmolLM2's heads, median", (column) => ({
      covered: middle(({ covered }) => covered)(column),
      skewed: middle(({ skewed }) => skewed)(column),
    })),
    worst: of("SmolLM2's heads, worst", (column) => column[0] as Held),
    heads: effects.length,
    below: columns.map((column) => column.filter(({ covered }) => covered < 0.93).length / column.length),
  };
}

interface Held {
  readonly covered: number;
  readonly skewed: number;
}

function holds(mean: number, count: number, draw: Draw, rounds: number): Held {
  let [covered, skewed] = [0, 0];
  for (let round = 0; round < rounds; round++) {
    const { ci95, skewness } = estimate(Float64Array.from({ length: count }, draw));
    if (ci95 !== null && ci95[0] <= mean && mean <= ci95[1]) covered++;
    if (Math.abs(skewness ?? 0) > 1) skewed++;
  }
  return { covered: covered / rounds, skewed: skewed / rounds };
}

export interface Discovery {
  readonly family: string;
  /** Mean share of false ones among those called at q ≤ 0.05, and its standard error. */
  readonly rate: number;
  readonly se: number;
}

/** 100 conditions on 32 blocks, a quarter of them with an effect of half a block's sd. */
export function discovery(rounds: number): Discovery[] {
  const [conditions, real] = [100, 25];
  return WELL_BEHAVED.map(({ name, blocks }, family) => {
    const draw = blocks(50 + family);
    const rates = Float64Array.from({ length: rounds }, () => {
      const p = Array.from({ length: conditions }, (_, condition) => {
        const effect = condition < real ? 0.5 : 0;
        return estimate(Float64Array.from({ length: 32 }, () => draw() + effect)).p;
      });
      const called = adjust(p).flatMap((q, condition) => (q !== null && q <= 0.05 ? [condition] : []));
      return called.filter((condition) => condition >= real).length / Math.max(1, called.length);
    });
    const { mean, se } = estimate(rates);
    return { family: name, rate: mean, se: se ?? 0 };
  });
}
