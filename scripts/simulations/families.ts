/** Kinds of block differences to simulate with: what the statistics assume, and how it can be broken. */
import { heavyTails, normals, uniforms } from "../../test/unit/statistics/random.ts";

export type Draw = () => number;

export interface Family {
  readonly name: string;
  readonly mean: number;
  /** Values of the blocks one after the other. */
  readonly blocks: (seed: number) => Draw;
}

export const FAMILIES: readonly Family[] = [
  { name: "normal", mean: 0, blocks: normals },
  { name: "t₃", mean: 0, blocks: heavyTails },
  { name: "tokens of a block correlated at 0.9", mean: 0, blocks: correlatedTokens },
  { name: "exponential", mean: 1, blocks: (seed) => map(uniforms(seed), (u) => -Math.log(1 - u)) },
  { name: "lognormal(1)", mean: Math.exp(0.5), blocks: (seed) => map(normals(seed), Math.exp) },
  { name: "5 % outlier blocks (+10 sd)", mean: 0.5, blocks: outliers },
  { name: "neighbouring blocks correlated at 0.3", mean: 0, blocks: correlatedBlocks },
];

/** Those that the guarantees are stated for. */
export const WELL_BEHAVED = FAMILIES.slice(0, 2);

function map(draw: Draw, of: (value: number) => number): Draw {
  return () => of(draw());
}

/** Mean of 64 tokens, each 0.9 times the one before plus noise; blocks independent. */
function correlatedTokens(seed: number): Draw {
  const normal = normals(seed);
  return () => {
    let [token, total] = [normal() / Math.sqrt(1 - 0.81), 0];
    for (let index = 0; index < 64; index++) {
      total += token;
      token = 0.9 * token + normal();
    }
    return total / 64;
  };
}

function outliers(seed: number): Draw {
  const [normal, uniform] = [normals(seed), uniforms(seed + 1)];
  return () => normal() + (uniform() < 0.05 ? 10 : 0);
}

function correlatedBlocks(seed: number): Draw {
  const normal = normals(seed);
  let block = normal();
  return () => {
    block = 0.3 * block + Math.sqrt(1 - 0.09) * normal();
    return block;
  };
}
