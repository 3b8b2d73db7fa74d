/**
 * How far the statistics can be trusted: simulated coverage, false discovery rate and racing errors.
 *
 *   node scripts/simulate-statistics.ts [--rounds 2000] [--write]
 *
 * Prints Markdown tables; --write puts them into docs/statistics.md. A test runs it in small.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { estimate } from "../src/statistics/effects.ts";
import { adjust } from "../src/statistics/multiplicity.ts";
import { type RacePlan, race, roundsFor } from "../src/statistics/racing.ts";
import { heavyTails, normals, uniforms } from "../test/unit/statistics/random.ts";

type Draw = () => number;

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

const BLOCKS = [8, 16, 32, 64];

export interface Coverage {
  readonly family: string;
  /** For each of BLOCKS: share of 95 % intervals that hold the true mean, and share flagged as skewed. */
  readonly covered: readonly number[];
  readonly skewed: readonly number[];
}

export function coverage(rounds: number): Coverage[] {
  return FAMILIES.map(({ name, mean, blocks }, family) => {
    const shares = BLOCKS.map((count) => {
      const draw = blocks(1000 * family + count);
      let covered = 0;
      let skewed = 0;
      for (let round = 0; round < rounds; round++) {
        const { ci95, skewness } = estimate(Float64Array.from({ length: count }, draw));
        if (ci95 !== null && ci95[0] <= mean && mean <= ci95[1]) covered++;
        if (Math.abs(skewness ?? 0) > 1) skewed++;
      }
      return [covered / rounds, skewed / rounds] as const;
    });
    return {
      family: name,
      covered: shares.map(([share]) => share),
      skewed: shares.map(([, share]) => share),
    };
  });
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
  return FAMILIES.slice(0, 2).map(({ name, blocks }, family) => {
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

export interface RaceResult {
  readonly family: string;
  /** Distance of the first condition outside the top from the last inside, in tolerances. */
  readonly gap: number;
  /** Share of sweeps in which a settled condition lies further than the tolerance below the k-th. */
  readonly errors: number;
  readonly settled: number;
  /** Measurements as a share of the uniform run that settles the same, or of all blocks. */
  readonly cost: number;
}

/** 40 conditions, the top 5 at 95 %, up to 128 blocks; half a block's sd is the tolerance. */
export function racing(rounds: number): RaceResult[] {
  const [conditions, top, tolerance, blocks] = [40, 5, 0.5, 128];
  const plan: RacePlan = { top, confidence: 0.95, tolerance, conditions, rounds: roundsFor(blocks, 4) };
  return FAMILIES.slice(0, 2).flatMap((family, which) =>
    [0, 0.5, 1, 2].map((gap) => {
      const edge = 2;
      const means = Array.from({ length: conditions }, (_, rank) =>
        rank < top ? edge + (top - 1 - rank) * 0.5 : edge - gap * tolerance - (rank - top) * 0.1,
      );
      const draw = family.blocks(10 * which + gap + 1);
      let [errors, settled, used, uniform] = [0, 0, 0, 0];
      for (let round = 0; round < rounds; round++) {
        const effects = means.map((mean) => Float64Array.from({ length: blocks }, () => mean + draw()));
        const result = race(plan, effects);
        if (result.settled) settled++;
        if (result.accepted.some((condition) => (means[condition] ?? 0) < edge - tolerance - 1e-9)) errors++;
        used += measurements(plan, effects);
        uniform += conditions * uniformBlocks(plan, effects);
      }
      return {
        family: family.name,
        gap,
        errors: errors / rounds,
        settled: settled / rounds,
        cost: used / uniform,
      };
    }),
  );
}

/** Blocks that a race asks for, all conditions together. */
function measurements(plan: RacePlan, effects: readonly Float64Array[]): number {
  let seen = effects.map(() => new Float64Array());
  for (let state = race(plan, seen); !state.finished; state = race(plan, seen)) {
    seen = seen.map((values, condition) =>
      state.active.includes(condition) ? (effects[condition] as Float64Array).slice(0, state.target) : values,
    );
  }
  return seen.reduce((total, { length }) => total + length, 0);
}

/** Blocks after which the same bounds settle the top with every condition still measured. */
function uniformBlocks(plan: RacePlan, effects: readonly Float64Array[]): number {
  const share = (1 - plan.confidence) / plan.rounds.length;
  const settles = plan.rounds.find(
    (blocks) => race({ ...plan, rounds: [blocks], confidence: 1 - share }, effects).settled,
  );
  return settles ?? (plan.rounds.at(-1) as number);
}

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

export function report(rounds: number): string {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const table = (head: readonly string[], lines: readonly (readonly string[])[]) =>
    [head, head.map(() => "--:"), ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
  const columns = BLOCKS.map((count) => `${count} blocks`);
  return [
    `${rounds.toLocaleString("en-US")} simulated samples a cell. Share of 95 % intervals that hold the true mean (in brackets: flagged "skewed"):`,
    table(
      ["block differences", ...columns],
      coverage(rounds).map(({ family, covered, skewed }) => [
        family,
        ...covered.map((share, index) => `${percent(share)} (${percent(skewed[index] ?? 0)})`),
      ]),
    ),
    "False discovery rate at q ≤ 0.05 (100 conditions, 25 real, 32 blocks, Benjamini–Hochberg):",
    table(
      ["block differences", "mean false discovery rate", "standard error"],
      discovery(rounds).map(({ family, rate, se }) => [family, percent(rate), percent(se)]),
    ),
    "`stop: {top: 5, confidence: 0.95}` on 40 conditions and up to 128 blocks; the tolerance is half a block's sd; cost against the uniform run that settles the same:",
    table(
      ["block differences", "gap at the edge", "errors", "settled", "measurements"],
      racing(rounds).map(({ family, gap, errors, settled, cost }) => [
        family,
        `${gap} × tolerance`,
        percent(errors),
        percent(settled),
        percent(cost),
      ]),
    ),
  ].join("\n\n");
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { rounds: { type: "string", default: "2000" }, write: { type: "boolean", default: false } },
  });
  const tables = report(Number(values.rounds));
  console.log(tables);
  if (values.write) {
    const path = new URL("../docs/statistics.md", import.meta.url);
    const [before = "", , after = ""] = readFileSync(path, "utf8").split(/<!-- (?:simulated|end) -->/);
    writeFileSync(path, `${before}<!-- simulated -->\n\n${tables}\n\n<!-- end -->${after}`);
  }
}
