/** Pure: one run whose sites were edited in several modes → where what is measured rests on the mode. */

import { MODE_NAMES, type Mode } from "../../protocol/catalog.ts";
import { isDoubted } from "../../results/ranking.ts";
import { FALSE_DISCOVERY_RATE, type Row } from "../../results/row.ts";
import { type Interval, intervalAt } from "../../statistics/effects.ts";
import { adjust, confidenceOfSelected } from "../../statistics/multiplicity.ts";
import type { BlockRun } from "../../store/block-run.ts";
import { type Agreement, agree, type Pair } from "../agreement/agreement.ts";
import { pairConditions } from "../agreement/pairing.ts";
import { modeOf } from "./modes.ts";

/**
 * What two modes say of one site. `only`: distinguishable from 0 in one of them, in the other not even with a flag;
 * `opposite`: distinguishable in both, with opposite signs; `size`: the difference alone is clear. All three need a
 * difference between the modes that is itself distinguishable from 0. `undecided`: one marks it, the other does not, but
 * the difference is not clear. `alike`: nothing speaks for a difference. `untested`: there is no test.
 */
export type Verdict = "only" | "opposite" | "size" | "undecided" | "alike" | "untested";

/** Verdicts by which what a site is worth is an artefact of the mode. */
const ARTEFACTS: readonly Verdict[] = ["only", "opposite"];

export interface Comparison {
  readonly modes: readonly [Mode, Mode];
  readonly verdict: Verdict;
  /** The mode in which the effect is the larger: of `only`, the one that marks it. */
  readonly larger: Mode;
  /** Second mode − first; q is over all differences of the audit. */
  readonly pair: Pair;
  /** Of a difference with q ≤ 0.05: its interval adjusted for having been selected (false coverage rate 5 %). */
  readonly adjusted: Interval | null;
}

export interface SiteAudit {
  /** The conditions' id without the mode. */
  readonly site: string;
  /** One a mode of the audit; null where it was not measured in that mode. */
  readonly rows: readonly (Row | null)[];
  readonly comparisons: readonly Comparison[];
  readonly artefact: boolean;
}

export interface ModeAudit {
  readonly modes: readonly Mode[];
  /** One a pair of modes with a site in common; pairs with the audit's q. */
  readonly agreements: readonly Agreement[];
  /** Differences tested, over all pairs of modes: one family. */
  readonly tests: number;
  /** Artefacts first, then by the largest clear difference. */
  readonly sites: readonly SiteAudit[];
}

/** null where no site was measured in two modes. */
export function auditModes(run: BlockRun): ModeAudit | null {
  const [baseline] = run.rows;
  if (baseline === undefined) return null;
  const byMode = new Map(
    MODE_NAMES.map((mode) => [mode, [baseline, ...run.rows.filter((row) => modeOf(row) === mode)]] as const),
  );
  const raw = MODE_NAMES.flatMap((first, index) =>
    MODE_NAMES.slice(index + 1).flatMap((second) => {
      const [a, b] = [byMode.get(first) ?? [], byMode.get(second) ?? []];
      const common = pairConditions(a, b).pairs.some(({ rows }) =>
        rows.every(({ delta_nll }) => delta_nll !== null),
      );
      const named = (mode: Mode, rows: readonly Row[]) => ({
        name: mode,
        letter: mode,
        directory: "",
        run: { ...run, rows },
      });
      return common ? [agree(named(first, a), named(second, b))] : [];
    }),
  );
  if (raw.length === 0) return null;
  const agreements = adjustedTogether(raw);
  const measured = agreements.flatMap(({ pairs, unpaired }) => (unpaired === null ? pairs : []));
  const selected = measured.filter(({ q }) => q !== null && q <= FALSE_DISCOVERY_RATE).length;
  const confidence = confidenceOfSelected(selected, measured.length, FALSE_DISCOVERY_RATE);
  const modes = MODE_NAMES.filter((mode) =>
    agreements.some(({ runs }) => runs.some(({ name }) => name === mode)),
  );
  return { modes, agreements, tests: measured.length, sites: sitesOf(agreements, modes, confidence) };
}

/** q over the differences of all pairs of modes at once: a site has as many chances to stand out. */
function adjustedTogether(agreements: readonly Agreement[]): Agreement[] {
  const tested = agreements.flatMap(({ pairs, unpaired }) => (unpaired === null ? pairs : []));
  const q = adjust(tested.map(({ difference }) => difference?.p ?? null));
  const adjusted = new Map(tested.map((pair, index) => [pair, q[index] ?? null]));
  return agreements.map((agreement) => ({
    ...agreement,
    pairs: agreement.pairs.map((pair) => {
      const value = adjusted.get(pair);
      if (value === undefined) return pair;
      const distinguishable = (value ?? 1) <= FALSE_DISCOVERY_RATE && pair.flags.length === 0;
      return { ...pair, q: value, distinguishable };
    }),
  }));
}

function sitesOf(agreements: readonly Agreement[], modes: readonly Mode[], confidence: number): SiteAudit[] {
  const bySite = new Map<string, Comparison[]>();
  for (const { runs, pairs } of agreements) {
    const names = [runs[0].name, runs[1].name] as [Mode, Mode];
    for (const pair of pairs) {
      const list = bySite.get(pair.site) ?? [];
      list.push(compare(names, pair, confidence));
      bySite.set(pair.site, list);
    }
  }
  const sites = [...bySite].map(([site, comparisons]): SiteAudit => {
    const row = (mode: Mode): Row | null =>
      comparisons.flatMap((one) => one.pair.rows.filter((_, side) => one.modes[side] === mode))[0] ?? null;
    const artefact = comparisons.some(({ verdict }) => ARTEFACTS.includes(verdict));
    return { site, rows: modes.map(row), comparisons, artefact };
  });
  const reach = ({ comparisons }: SiteAudit) =>
    Math.max(
      0,
      ...comparisons.map(({ pair }) => (pair.distinguishable ? Math.abs(pair.difference?.mean ?? 0) : 0)),
    );
  return sites.sort((x, y) => Number(y.artefact) - Number(x.artefact) || reach(y) - reach(x));
}

function compare(modes: readonly [Mode, Mode], pair: Pair, confidence: number): Comparison {
  const { rows, difference, q, distinguishable } = pair;
  const [a, b] = rows;
  const sizes = rows.map(({ delta_nll }) => Math.abs(delta_nll ?? 0)) as [number, number];
  const marked = rows.map((row) => row.distinguishable === true) as [boolean, boolean];
  const only = marked[0] !== marked[1];
  const quiet = rows.some((row, side) => !marked[side] && !isDoubted(row));
  let verdict: Verdict = only ? "undecided" : "alike";
  if (distinguishable === null) verdict = "untested";
  else if (distinguishable) {
    const opposite = marked[0] && marked[1] && (a.delta_nll ?? 0) * (b.delta_nll ?? 0) < 0;
    verdict = opposite ? "opposite" : only && quiet ? "only" : "size";
  }
  const larger = verdict === "only" ? modes[marked[0] ? 0 : 1] : modes[sizes[0] >= sizes[1] ? 0 : 1];
  const selected = difference !== null && q !== null && q <= FALSE_DISCOVERY_RATE;
  return { modes, verdict, larger, pair, adjusted: selected ? intervalAt(difference, confidence) : null };
}
