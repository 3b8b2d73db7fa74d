/** Pure: measurements of a run → the rows of its table, one a condition, the baseline first. */
import { conditionId } from "../conditions/ids.ts";
import type { Intervention } from "../protocol/messages.ts";
import { CHANGE, isLevel } from "../protocol/metrics.ts";
import {
  blockDifferences,
  type Estimate,
  estimate,
  MAX_SKEWNESS,
  pairedEffect,
  signCount,
} from "../statistics/effects.ts";
import { adjust, type Correction } from "../statistics/multiplicity.ts";
import { begunRow, fillBaseline, fillEffect, fillLevel, fillSigns } from "./columns.ts";
import type { StatisticsSettings } from "./facts.ts";
import { type JointEffect, JointEffects, type Parts } from "./interactions.ts";
import { standings } from "./races.ts";
import {
  type ConditionMeasurements,
  type Decide,
  DOUBTS,
  type Draft,
  type Entry,
  FALSE_DISCOVERY_RATE,
  FEW_BLOCKS,
  FLOOR_MULTIPLE,
  HINTS,
  type Interaction,
  type MetricEstimate,
  type Row,
} from "./row.ts";

/** A run's rows before they are laid out: what the sweep decides as a whole is known, the rows are not kept. */
export interface Table {
  /** Columns beside nll that some condition has. */
  readonly metrics: readonly string[];
  /** Whether some row has one. */
  readonly interactions: boolean;
  /** What every row says it is measured on top of; absent: nothing. */
  readonly given?: string;
  /** The baseline, then the conditions in their order; made one by one. */
  readonly rows: () => IteratorObject<Row>;
}

/**
 * Rows of a run: the baseline, then the conditions in the order given. Each is compared with the
 * baseline on the blocks both have, so the rows of a run in progress are valid, if wider.
 * The conditions are read twice, first for what all decide together (q, places in a race), and never kept:
 * fit for 100,000 of them. What interactions need is kept: one sum a block of joint conditions and their parts.
 * @param conditions gives the same ones each time.
 * @param parts of the joint conditions, as `partsOf` finds them among all conditions of the run.
 */
export function tabulate(
  baseline: ConditionMeasurements,
  conditions: () => Iterable<ConditionMeasurements>,
  settings: StatisticsSettings,
  parts: Parts = new Map(),
): Table {
  const race = settings.race ?? null;
  const metrics = new Set<string>();
  const together = new JointEffects(parts);
  function* entries(see: (measured: ConditionMeasurements) => void = () => undefined): Generator<Entry> {
    for (const measured of conditions()) {
      see(measured);
      const entry = compare(measured, baseline, race !== null);
      const { row, effect } = entry;
      if (effect !== null) row.flags = [...row.flags, ...flagsOf(effect, settings)];
      for (const metric of Object.keys(row.metrics)) metrics.add(metric);
      yield entry;
    }
  }
  const first = baselineRow(baseline);
  for (const metric of Object.keys(first.metrics)) metrics.add(metric);
  const decide =
    race === null
      ? tests(
          entries((measured) => together.add(measured)),
          settings.correction,
        )
      : standings(entries(), race);
  const interactions =
    race === null ? interactionsOf(together.estimates(baseline), settings) : new Map<string, Interaction>();
  return {
    metrics: [...metrics],
    interactions: interactions.size > 0,
    *rows() {
      yield first;
      let index = 0;
      for (const entry of entries()) {
        decide(entry, index++);
        entry.row.interaction = interactions.get(entry.row.condition) ?? null;
        yield entry.row;
      }
    },
  };
}

/** The table of a run whose rows are measured on top of other edits. */
export function onTopOf(given: readonly Intervention[], { rows, ...table }: Table): Table {
  const id = conditionId(given);
  return { ...table, given: id, rows: () => rows().map((row) => ({ ...row, given: id })) };
}

/** `tabulate`, all rows at once. */
export function buildRows(
  baseline: ConditionMeasurements,
  conditions: Iterable<ConditionMeasurements>,
  settings: StatisticsSettings,
  parts: Parts = new Map(),
): Row[] {
  const all = [...conditions];
  return [...tabulate(baseline, () => all, settings, parts).rows()];
}

/** q values over all that was measured, and who is marked. */
function tests(entries: Iterable<Entry>, correction: Correction): Decide {
  const pValues: (number | null)[] = [];
  /** Of each entry the index of its test; −1 where nothing was compared. */
  const places: number[] = [];
  for (const { effect, row } of entries) places.push(effect === null ? -1 : pValues.push(row.p) - 1);
  const qValues = adjust(pValues, correction);
  return ({ row }, at) => {
    const place = places[at] ?? -1;
    if (place < 0) return;
    row.q = qValues[place] ?? null;
    row.distinguishable = isDistinguishable(row.q, row.flags);
  };
}

/** Estimates → what rows say of them: doubts, and q over all of them. */
function interactionsOf(
  estimates: ReadonlyMap<string, JointEffect>,
  { floor, correction }: StatisticsSettings,
): Map<string, Interaction> {
  const measured = [...estimates.values()].flatMap(({ effect }) => (effect === null ? [] : [effect]));
  const q = new Map(
    adjust(
      measured.map(({ p }) => p),
      correction,
    ).map((value, index) => [measured[index], value]),
  );
  return new Map(
    [...estimates].map(([id, { parts, effect }]) => {
      if (effect === null) return [id, { parts, ...NOTHING }];
      // Each of the effects that it is made of has a rounding of its own.
      const terms = Math.sqrt(parts.length + 1);
      const flags = flagsOf(effect, { floor: floor && { ...floor, rms: terms * floor.rms } });
      const { mean, se, ci95, p, n } = effect;
      const adjusted = q.get(effect) ?? null;
      const distinguishable = isDistinguishable(adjusted, flags);
      return [id, { parts, effect: mean, se, ci95, p, q: adjusted, distinguishable, flags, blocks: n }];
    }),
  );
}

export const NOTHING: Omit<Interaction, "parts"> = {
  effect: null,
  se: null,
  ci95: null,
  p: null,
  q: null,
  distinguishable: null,
  flags: [],
  blocks: 0,
};

const isDistinguishable = (q: number | null, flags: readonly string[]): boolean =>
  (q ?? 1) <= FALSE_DISCOVERY_RATE && !flags.some(isDoubt);

function isDoubt(flag: string): boolean {
  return Object.values<string>(DOUBTS).includes(flag);
}

/** Doubts, with any of which an effect is never marked distinguishable, and hints. */
export function flagsOf(effect: Estimate, settings: Pick<StatisticsSettings, "floor">): string[] {
  const { floor } = settings;
  const flags: string[] = [];
  if (effect.n === 1) flags.push(DOUBTS.oneBlock);
  if (effect.n < FEW_BLOCKS) flags.push(DOUBTS.fewBlocks);
  if (effect.skewness !== null && Math.abs(effect.skewness) > MAX_SKEWNESS) flags.push(HINTS.skewed);
  if (effect.n > 1 && effect.p === null) flags.push(DOUBTS.noSpread);
  if (floor !== null && Math.abs(effect.mean) < FLOOR_MULTIPLE * floor.rms) flags.push(DOUBTS.belowFloor);
  return flags;
}

function compare(measured: ConditionMeasurements, baseline: ConditionMeasurements, racing: boolean): Entry {
  const row = begunRow(measured);
  if (measured.error !== null) {
    row.status = "failed";
    row.error = measured.error.code;
    return { row, effect: null, differences: null };
  }
  const common = commonBlocks(measured.blocks, baseline.blocks);
  if (common.length === 0) return { row, effect: null, differences: null };
  const mine = pick(measured, common.mine);
  if (!Object.values(mine).every((sums) => sums.every(Number.isFinite))) {
    row.status = "failed";
    row.error = "nonfinite_logits";
    return { row, effect: null, differences: null };
  }
  const [nll, reference] = [nllOf(mine), nllOf(pick(baseline, common.reference))];
  const effect = pairedEffect(nll, reference, measured.tokens);
  fillLevels(row, mine, measured, common.mine);
  row.metrics = withChanges(row.metrics, mine, pick(baseline, common.reference), measured.tokens);
  row.status = common.length < baseline.blocks.length ? "partial" : "done";
  fillEffect(row, effect);
  const differences = blockDifferences(nll, reference, measured.tokens);
  if (!racing) fillSigns(row, signCount(differences));
  const gap = common.mine.findIndex((position, index) => measured.blocks[position] !== index);
  return { row, effect, differences: racing ? differences.subarray(0, gap < 0 ? undefined : gap) : null };
}

function baselineRow(baseline: ConditionMeasurements): Row {
  const row = begunRow(baseline);
  if (baseline.error !== null) return { ...row, status: "failed", error: baseline.error.code };
  if (baseline.blocks.length === 0) return row;
  fillLevels(row, baseline.sums, baseline, [...baseline.blocks.keys()]);
  const metrics = withChanges(row.metrics, baseline.sums, baseline.sums, baseline.tokens);
  for (const column of Object.keys(metrics).filter((name) => name.startsWith(CHANGE)))
    metrics[column] = { mean: 0, se: null, ci95: null };
  row.metrics = metrics;
  fillBaseline(row);
  return row;
}

/** NLL, perplexity and the metrics' columns over some of the measured blocks: those at `positions` of its list. */
function fillLevels(
  row: Draft,
  sums: ConditionMeasurements["sums"],
  { tokens, answers, blocks }: ConditionMeasurements,
  positions: readonly number[],
): void {
  fillLevel(row, {
    nll: estimate(nllOf(sums)).mean / tokens,
    blocks: positions.length,
    tokens:
      answers == null
        ? positions.length * tokens
        : positions.reduce((sum, position) => sum + (answers[blocks[position] as number] ?? 0), 0),
  });
  row.metrics = Object.fromEntries(
    Object.entries(sums)
      .filter(([column]) => column !== "nll")
      .map(([column, values]) => [column, metricEstimate(values, tokens)]),
  );
}

/** Behind each level its change from the baseline, paired block by block. */
function withChanges(
  metrics: Row["metrics"],
  sums: ConditionMeasurements["sums"],
  reference: ConditionMeasurements["sums"],
  tokens: number,
): Record<string, MetricEstimate> {
  return Object.fromEntries(
    Object.entries(metrics).flatMap(([column, level]) => {
      const [mine, theirs] = [sums[column], reference[column]];
      if (!isLevel(column) || mine === undefined || theirs === undefined) return [[column, level]];
      const { mean, se, ci95 } = pairedEffect(mine, theirs, tokens);
      return [
        [column, level],
        [`${CHANGE}${column}`, { mean, se, ci95 }],
      ];
    }),
  );
}

function metricEstimate(sums: Float64Array, tokens: number): MetricEstimate {
  const { mean, se, ci95 } = estimate(sums.map((value) => value / tokens));
  return { mean, se, ci95 };
}

function nllOf(sums: ConditionMeasurements["sums"]): Float64Array {
  const nll = sums.nll;
  if (nll === undefined) throw new RangeError("measurements without their nll column");
  return nll;
}

/** Positions, in each of two ascending lists, of the blocks that are in both. */
function commonBlocks(mine: readonly number[], reference: readonly number[]) {
  const positions = { mine: [] as number[], reference: [] as number[], length: 0 };
  for (let i = 0, j = 0; i < mine.length && j < reference.length; ) {
    const order = (mine[i] as number) - (reference[j] as number);
    if (order === 0) {
      positions.mine.push(i);
      positions.reference.push(j);
      positions.length++;
    }
    if (order <= 0) i++;
    if (order >= 0) j++;
  }
  return positions;
}

function pick({ sums, blocks }: ConditionMeasurements, positions: readonly number[]) {
  if (positions.length === blocks.length) return sums;
  return Object.fromEntries(
    Object.entries(sums).map(([column, values]) => [
      column,
      Float64Array.from(positions, (position) => values[position] as number),
    ]),
  );
}
