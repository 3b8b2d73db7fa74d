/** Pure: two runs → how far their rankings agree, and where they do not. */
import { SparkablateError } from "../../errors.ts";
import { FALSE_DISCOVERY_RATE, HINTS, type Row } from "../../results/row.ts";
import { flagsOf } from "../../results/tabulate.ts";
import {
  averageRanks,
  type RankAgreement,
  spearman,
  type TopOverlap,
  topOverlap,
} from "../../statistics/agreement.ts";
import type { Estimate } from "../../statistics/effects.ts";
import { adjust } from "../../statistics/multiplicity.ts";
import type { BlockRun } from "../../store/block-run.ts";
import { isSameGround } from "../given.ts";
import { type SiteBlocks, siteComparer } from "./blocks.ts";
import { type Difference, differences, sharedBlocks } from "./differing.ts";
import { pairConditions } from "./pairing.ts";

const TOPS = [5, 10, 20, 50, 100];

/** Why there is no interval for any difference of the two runs; the first that holds is given. */
export const UNPAIRED = {
  race: "stop: gave conditions different numbers of blocks",
  blocks: "they have no two blocks in common",
} as const;

export interface NamedRun {
  /**
   * What outputs call it, files too: the directory's name, or as much of its path as tells the runs apart; never
   * anything that a database says.
   */
  readonly name: string;
  /** A, B, …: what tables and charts call it. */
  readonly letter: string;
  readonly directory: string;
  readonly run: BlockRun;
}

/** One site, edited in both runs. */
export interface Pair {
  readonly site: string;
  readonly rows: readonly [Row, Row];
  /** Rank 1: the largest Δ NLL among the pairs; equals share their mean rank. */
  readonly ranks: readonly [number, number];
  /** Δ NLL of the second run − Δ NLL of the first, nats per token, on the blocks both measured; null where not paired. */
  readonly difference: Estimate | null;
  readonly q: number | null;
  /** q ≤ 0.05 and no flag but skewed: the two edits differ here. null where not tested. */
  readonly distinguishable: boolean | null;
  readonly flags: readonly string[];
}

export interface Agreement {
  readonly runs: readonly [NamedRun, NamedRun];
  /** What should be equal and is not. */
  readonly differing: readonly Difference[];
  /** Key of UNPAIRED, or null where differences are paired block by block. */
  readonly unpaired: keyof typeof UNPAIRED | null;
  readonly shared_blocks: number;
  /** Measured in both, by the size of the disagreement: |difference|, or where not paired by the ranks' distance. */
  readonly pairs: readonly Pair[];
  /** In one run only. */
  readonly alone: readonly [readonly string[], readonly string[]];
  /** In both, but failed or not measured yet in at least one: left out of every number here. */
  readonly unmeasured: readonly string[];
  readonly ranking: RankAgreement;
  readonly top: readonly TopOverlap[];
  /**
   * ρ of each run with itself, one half of its blocks against the other: noise lowers an agreement of whole runs less
   * than that. null in a race, with halves of fewer than two blocks, or where ρ is not defined.
   */
  readonly halves: readonly [number | null, number | null];
}

/** @throws SparkablateError usage where the two have nothing to compare. */
export function agree(first: NamedRun, second: NamedRun): Agreement {
  const [a, b] = [first.run, second.run];
  requireSameShape(first, second);
  const pairing = pairConditions(a.rows, b.rows);
  const measured = pairing.pairs.filter(({ rows }) => rows.every(({ delta_nll }) => delta_nll !== null));
  if (measured.length === 0) {
    const why = pairing.pairs.length === 0 ? "no condition in common" : "no condition measured in both";
    throw new SparkablateError("usage", `${first.name} and ${second.name} have ${why}`, {
      help: "Compare runs that edit the same sites, such as the same sweep of the same model.",
    });
  }
  const shared = sharedBlocks(a, b);
  const compareSite = siteComparer([a, b], shared);
  const races = [a, b].some(({ facts }) => Boolean(facts.statistics.race));
  const unpaired = races ? "race" : shared.size < 2 ? "blocks" : null;
  const scores = sides((side) => measured.map(({ rows }) => score(rows[side])));
  const ranks = sides((side) => averageRanks(scores[side]));
  const orders = sides((side) => orderOf(scores[side]));
  const floor = floorOf(a, b);
  const marks = isSameGround(a.facts, b.facts) ? [] : [HINTS.otherGiven];
  const compared = measured.map(({ rows }) => compareSite(rows));
  const q = adjust(compared.map(({ difference }) => (unpaired === null ? (difference?.p ?? null) : null)));
  const pairs = measured.map(({ site, rows }, index): Pair => {
    const estimated = unpaired === null ? (compared[index]?.difference ?? null) : null;
    const flags = estimated === null ? [] : flagsOf(estimated, { floor });
    return {
      site,
      rows,
      ranks: [ranks[0][index] as number, ranks[1][index] as number],
      difference: estimated,
      q: q[index] ?? null,
      distinguishable:
        estimated === null ? null : (q[index] ?? 1) <= FALSE_DISCOVERY_RATE && flags.length === 0,
      flags: [...flags, ...marks],
    };
  });
  const tops = TOPS.filter((k) => 2 * k <= measured.length);
  const half = Math.floor(measured.length / 2);
  return {
    runs: [first, second],
    differing: differences(a, b),
    unpaired,
    shared_blocks: shared.size,
    pairs: [...pairs].sort((x, y) => disagreement(y) - disagreement(x)),
    alone: pairing.alone,
    unmeasured: pairing.pairs
      .filter(({ rows }) => rows.some(({ delta_nll }) => delta_nll === null))
      .map(({ site }) => site),
    ranking: spearman(...scores),
    top: (tops.length > 0 || half === 0 ? tops : [half]).map((k) => topOverlap(orders, k)),
    halves: sides((side) => (races ? null : halfAgreement(compared.map(({ halves }) => halves[side])))),
  };
}

/** Flags of a pair that is not marked although q ≤ 0.05. */
export function isDoubtedPair({ distinguishable, q }: Pair): boolean {
  return distinguishable === false && q !== null && q <= FALSE_DISCOVERY_RATE;
}

/** How far apart the two runs put a site; in nats where they can be subtracted. */
function disagreement({ difference: estimated, ranks }: Pair): number {
  return estimated === null ? Math.abs(ranks[0] - ranks[1]) : Math.abs(estimated.mean);
}

const sides = <T>(of: (side: 0 | 1) => T): [T, T] => [of(0), of(1)];

/** What a run ranks by: Δ NLL, or its place where a race gave one. */
function score({ standing, delta_nll }: Row): number {
  return standing === null ? (delta_nll ?? 0) : -standing;
}

/** Indices, the largest first; equals in the order of the run. */
function orderOf(scores: readonly number[]): number[] {
  return scores.map((_, index) => index).sort((x, y) => (scores[y] as number) - (scores[x] as number));
}

/** A head of one architecture is not the head of another, though they are called the same. */
function requireSameShape(first: NamedRun, second: NamedRun): void {
  const keys = ["model_type", "n_layers", "d_model"] as const;
  const [a, b] = [first.run.model_map, second.run.model_map];
  const differing = keys.filter((key) => a[key] !== b[key]);
  if (differing.length === 0) return;
  const list = differing.map((key) => `${key}: ${a[key]} and ${b[key]}`).join(", ");
  throw new SparkablateError(
    "usage",
    `${first.name} (${first.run.facts.model}) and ${second.name} (${second.run.facts.model}) are runs of differently built models: ${list}`,
    {
      help: "Compare runs of models with the same layers; sites of differently built models do not correspond.",
    },
  );
}

/** ρ of a run's ranking on every other block with that on the rest; blocks stand in random order. */
function halfAgreement(halves: readonly SiteBlocks["halves"][number][]): number | null {
  const whole = halves.filter((pair) => pair !== null);
  if (whole.length < halves.length) return null;
  return spearman(
    whole.map(([even]) => even),
    whole.map(([, odd]) => odd),
  ).rho;
}

/** Rounding of both runs adds up; null where neither was measured for it. */
function floorOf(a: BlockRun, b: BlockRun): { rms: number; mean: number } | null {
  const floors = [a, b].flatMap(({ facts }) => facts.statistics.floor ?? []);
  if (floors.length === 0) return null;
  return {
    rms: Math.hypot(...floors.map(({ rms }) => rms)),
    mean: floors.reduce((sum, { mean }) => sum + mean, 0),
  };
}
