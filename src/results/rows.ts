/** Pure: measurements of a run → the rows of its table, one a condition, the baseline first. */

import type { ErrorCode } from "../errors.ts";
import { conditionColumns } from "../plan/conditions.ts";
import type { Condition, Numerics } from "../protocol/messages.ts";
import { CHANGE, isLevel } from "../protocol/metrics.ts";
import {
  blockDifferences,
  type Estimate,
  estimate,
  finite,
  type Interval,
  pairedEffect,
  ratioInterval,
} from "../statistics/effects.ts";
import type { NumericFloor } from "../statistics/floor.ts";
import { adjust, type Correction } from "../statistics/multiplicity.ts";
import type { RacePlan } from "../statistics/racing.ts";
import { type JointEffect, JointEffects, type Parts } from "./interactions.ts";
import { standings } from "./races.ts";

/** All that the store has of one condition. */
export interface ConditionMeasurements {
  readonly condition: Condition;
  /** Block indices, ascending. */
  readonly blocks: readonly number[];
  /** Column → sum over the block's predicted tokens, or the item's value, in the order of `blocks`; always "nll". */
  readonly sums: Readonly<Record<string, Float64Array>>;
  /** What a sum is divided by: predicted tokens a block; 1 for the items of a task. */
  readonly tokens: number;
  /** Tokens of each item's answer, by block index; null or absent where blocks are measured. */
  readonly answers?: readonly number[] | null;
  readonly seconds: number;
  readonly flags: readonly string[];
  readonly error: { readonly code: ErrorCode; readonly message: string } | null;
}

/** What the rows' statistics depend on. */
export interface StatisticsSettings {
  /** bh: Benjamini–Hochberg; by: Benjamini–Yekutieli. */
  readonly correction: Correction;
  /** What rounding alone does to Δ NLL (null conditions, below float32); null where not measured. */
  readonly floor: NumericFloor | null;
  /** `stop:`; absent or null where every condition sees every block. */
  readonly race?: RacePlan | null;
}

/** What is evaluated where it is no text. */
export interface TaskFacts {
  /** Of the task file. */
  readonly sha256: string;
  /** In the file. */
  readonly items: number;
  /** Whether the items have wrong answers. */
  readonly wrong: boolean;
}

/** All that a report says of a run beside its rows. */
export interface RunFacts {
  /** The run directory's name. */
  readonly name: string;
  /** As the config names it. */
  readonly model: string;
  /** The commit that was resolved; null for a local or built-in model. */
  readonly revision: string | null;
  /** Over the weight files. */
  readonly weights_sha256: string;
  /** All that changes the bits of a result without changing its meaning. */
  readonly numerics: Numerics;
  /** Evaluation text or task, as a person knows it: a file's name, or a dataset with its split. */
  readonly text: string;
  /** null or absent: a text. */
  readonly task?: TaskFacts | null;
  /** Calibration text or task; null where no mean was needed. */
  readonly calibration: string | null;
  /** Text or task whose rows mode resample takes activations from; absent where no condition has it. */
  readonly resample_source?: string;
  /** File whose rows mode patch takes activations from; absent where no condition has it. */
  readonly patch_source?: string;
  /** Tokens a block; of a task, of its longest item. */
  readonly seq_len: number;
  /** Blocks a batch. */
  readonly batch_size: number;
  /** Whether a BOS token stands before every block. */
  readonly bos: boolean;
  /** Which blocks, in which order. */
  readonly seed: number;
  /** Blocks a condition. */
  readonly planned_blocks: number;
  /** Without the baseline. */
  readonly planned_conditions: number;
  /** What was swept: layers, heads, kv_groups, mlp, attn, custom. */
  readonly sweep: string;
  /** What the rows' statistics depend on. */
  readonly statistics: StatisticsSettings;
  /** The resolved config, as YAML. */
  readonly config: string;
  /** sparkablate's version. */
  readonly version: string;
  /** ISO 8601. */
  readonly started: string;
  /** ISO 8601; null while conditions are missing. */
  readonly finished: string | null;
}

/** What a stored sum is divided by: predicted tokens a block; the values of a task's items are whole. */
export const divisor = ({ task, seq_len }: Pick<RunFacts, "task" | "seq_len">): number =>
  task == null ? seq_len - 1 : 1;

/** Fewer blocks than this: "few blocks". */
export const FEW_BLOCKS = 16;
/** Largest |skewness| of block differences at which a t interval is taken at its word. */
export const MAX_SKEWNESS = 1;
/** Multiple of the numeric floor's rms below which an effect may be rounding. */
export const FLOOR_MULTIPLE = 3;
/** False discovery rate of the mark. */
export const FALSE_DISCOVERY_RATE = 0.05;

/** Flags that keep a condition from being marked, whatever its q. */
export const DOUBTS = {
  oneBlock: "one block, no interval",
  fewBlocks: "few blocks",
  skewed: "skewed, the interval is too narrow",
  noSpread: "identical in every block, no interval",
  belowFloor: "below the numeric floor",
} as const;

/**
 * done: measured on every block of the baseline; partial: on some of them so far; stopped: on all
 * that `stop:` wants of it; pending: on none yet; failed: see `error`.
 */
export type Status = "done" | "partial" | "stopped" | "pending" | "failed";

/** One metric of one condition. */
export interface MetricEstimate {
  /** Mean a predicted token: nats (kl), or a share (top1). */
  readonly mean: number | null;
  /** Standard error, over blocks. */
  readonly se: number | null;
  /** Two-sided 95 % t interval. */
  readonly ci95: Interval | null;
}

/**
 * What a joint condition does beyond the sum of its parts: Δ NLL(joint) − Σ Δ NLL(part), paired block by block.
 * Positive: the parts back each other up. docs/redundancy.md says more.
 */
export interface Interaction {
  /** Conditions of the run, measured alone, that the joint one is made of. */
  readonly parts: readonly string[];
  /** Nats per predicted token; null where it or a part is not measured. */
  readonly effect: number | null;
  /** Standard error, over blocks. */
  readonly se: number | null;
  /** Of this interaction alone. */
  readonly ci95: Interval | null;
  /** Two-sided paired t test of "the effects add up". */
  readonly p: number | null;
  /** p adjusted over all measured interactions of the run: a family of their own. */
  readonly q: number | null;
  /** q ≤ 0.05 and no flag that doubts the interval; null where nothing was compared. */
  readonly distinguishable: boolean | null;
  /** Why its interval may not hold. */
  readonly flags: readonly string[];
  /** That the condition, its parts and the baseline share. */
  readonly blocks: number;
}

/** One row of the table: `rowRecord` lays it out as the JSON and CSV columns. */
export interface Row {
  /** Id, e.g. `L14.head[3,7].zero`; `baseline` in the first row. */
  readonly condition: string;
  /** Of its one intervention; `joint` for several, `baseline` for none. */
  readonly kind: string;
  /** Null where there is not exactly one. */
  readonly layer: number | null;
  /** Query heads or key/value groups; null where the kind has none. */
  readonly heads: readonly number[] | null;
  /** zero, mean or skip; a direction's operation; null where there is not exactly one intervention. */
  readonly mode: string | null;
  /** All of them, applied jointly. */
  readonly interventions: Condition["interventions"];
  /** How far it is measured. */
  readonly status: Status;
  /** Nats per predicted token. */
  readonly nll: number | null;
  /** Nats per predicted token: paired with the baseline on the same blocks; 0 for the baseline itself. */
  readonly delta_nll: number | null;
  /** Of `delta_nll`: sd of the blocks' differences / √blocks. */
  readonly se: number | null;
  /** Of this condition alone; in a race simultaneous for all conditions, at the race's confidence. */
  readonly ci95: Interval | null;
  /** Two-sided paired t test of no effect; null in a race, and where there is no spread. */
  readonly p: number | null;
  /** p adjusted over all measured conditions of the run; null in a row of a running sweep. */
  readonly q: number | null;
  /** q ≤ 0.05 and no flag that doubts the interval; null where nothing was compared. */
  readonly distinguishable: boolean | null;
  /** Why its interval may not hold: docs/reading-the-numbers.md lists them. */
  readonly flags: readonly string[];
  /** exp(nll). */
  readonly perplexity: number | null;
  /** exp(delta_nll). */
  readonly perplexity_ratio: number | null;
  /** exp of `ci95`. */
  readonly perplexity_ratio_ci95: Interval | null;
  /** Measured so far. */
  readonly blocks: number;
  /** Predicted tokens in those blocks, or tokens of those items' answers. */
  readonly tokens: number;
  /** Of computing. */
  readonly seconds: number;
  /** Columns beside nll: kl, top1, …; of a level (logit_diff, accuracy) its change from the baseline too. */
  readonly metrics: Readonly<Record<string, MetricEstimate>>;
  /** Of a joint condition whose parts are in the run too; else null, as in a race and in a row of a running sweep. */
  readonly interaction: Interaction | null;
  /** Why it failed; null where it did not. */
  readonly error: ErrorCode | null;
  /** Place in the ranking where a race gives it, since means over different blocks do not compare. */
  readonly standing: number | null;
}

/** A run's rows before they are laid out: what the sweep decides as a whole is known, the rows are not kept. */
export interface Table {
  /** Columns beside nll that some condition has. */
  readonly metrics: readonly string[];
  /** Whether some row has one. */
  readonly interactions: boolean;
  /** The baseline, then the conditions in their order; made one by one. */
  readonly rows: () => Generator<Row>;
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
      if (effect !== null) row.flags = [...row.flags, ...doubtsAbout(effect, settings)];
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

/** Fills in what all entries together decide of one, given its index among them. */
export type Decide = (entry: Entry, index: number) => void;

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
      const flags = doubtsAbout(effect, { floor: floor && { ...floor, rms: terms * floor.rms } });
      const { mean, se, ci95, p, n } = effect;
      const adjusted = q.get(effect) ?? null;
      const distinguishable = isDistinguishable(adjusted, flags);
      return [id, { parts, effect: mean, se, ci95, p, q: adjusted, distinguishable, flags, blocks: n }];
    }),
  );
}

const NOTHING: Omit<Interaction, "parts"> = {
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

/** Reasons not to trust a condition's interval: none of them is ever marked distinguishable. */
export function doubtsAbout(effect: Estimate, settings: Pick<StatisticsSettings, "floor">): string[] {
  const { floor } = settings;
  const doubts: string[] = [];
  if (effect.n === 1) doubts.push(DOUBTS.oneBlock);
  if (effect.n < FEW_BLOCKS) doubts.push(DOUBTS.fewBlocks);
  if (effect.skewness !== null && Math.abs(effect.skewness) > MAX_SKEWNESS) doubts.push(DOUBTS.skewed);
  if (effect.n > 1 && effect.p === null) doubts.push(DOUBTS.noSpread);
  if (floor !== null && Math.abs(effect.mean) < FLOOR_MULTIPLE * floor.rms) doubts.push(DOUBTS.belowFloor);
  return doubts;
}

export type Draft = { -readonly [K in keyof Row]: Row[K] };

/** A row in the making. */
export interface Entry {
  readonly row: Draft;
  /** null where nothing was compared. */
  readonly effect: Estimate | null;
  /** In a race: Δ NLL a token of blocks 0, 1, 2, … as far as they are measured without a gap. */
  readonly differences: Float64Array | null;
}

function compare(measured: ConditionMeasurements, baseline: ConditionMeasurements, racing: boolean): Entry {
  const row = emptyRow(measured);
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
  row.delta_nll = effect.mean;
  row.se = effect.se;
  row.ci95 = effect.ci95;
  row.p = effect.p;
  row.perplexity_ratio = finite(Math.exp(effect.mean));
  row.perplexity_ratio_ci95 = effect.ci95 && ratioInterval(effect.ci95);
  const gap = common.mine.findIndex((position, index) => measured.blocks[position] !== index);
  const differences = racing
    ? blockDifferences(nll, reference, measured.tokens).subarray(0, gap < 0 ? undefined : gap)
    : null;
  return { row, effect, differences };
}

function baselineRow(baseline: ConditionMeasurements): Row {
  const row = emptyRow(baseline);
  if (baseline.error !== null) return { ...row, status: "failed", error: baseline.error.code };
  if (baseline.blocks.length === 0) return row;
  fillLevels(row, baseline.sums, baseline, [...baseline.blocks.keys()]);
  const metrics = withChanges(row.metrics, baseline.sums, baseline.sums, baseline.tokens);
  for (const column of Object.keys(metrics).filter((name) => name.startsWith(CHANGE)))
    metrics[column] = { mean: 0, se: null, ci95: null };
  return { ...row, metrics, status: "done", delta_nll: 0, perplexity_ratio: 1 };
}

function emptyRow({
  condition,
  flags,
  seconds,
}: Pick<ConditionMeasurements, "condition" | "flags" | "seconds">): Draft {
  const { kind, layer, heads, mode } = conditionColumns(condition);
  return {
    condition: condition.id,
    kind,
    layer,
    heads,
    mode,
    interventions: condition.interventions,
    status: "pending",
    nll: null,
    delta_nll: null,
    se: null,
    ci95: null,
    p: null,
    q: null,
    distinguishable: null,
    flags,
    perplexity: null,
    perplexity_ratio: null,
    perplexity_ratio_ci95: null,
    blocks: 0,
    tokens: 0,
    seconds,
    metrics: {},
    interaction: null,
    error: null,
    standing: null,
  };
}

/** NLL, perplexity and the metrics' columns over some of the measured blocks: those at `positions` of its list. */
function fillLevels(
  row: Draft,
  sums: ConditionMeasurements["sums"],
  { tokens, answers, blocks }: ConditionMeasurements,
  positions: readonly number[],
): void {
  const nll = estimate(nllOf(sums)).mean / tokens;
  row.nll = nll;
  row.perplexity = finite(Math.exp(nll));
  row.blocks = positions.length;
  row.tokens =
    answers == null
      ? positions.length * tokens
      : positions.reduce((sum, position) => sum + (answers[blocks[position] as number] ?? 0), 0);
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

/** The row as JSON and JSONL carry it: the columns in order, the metrics' and the interaction's before `error`. */
export function rowRecord({
  metrics,
  interaction,
  error,
  standing: _,
  ...columns
}: Row): Record<string, unknown> {
  const record: Record<string, unknown> = { ...columns };
  for (const [name, { mean, se, ci95 }] of Object.entries(metrics)) {
    record[name] = mean;
    record[`${name}_se`] = se;
    record[`${name}_ci95`] = ci95;
  }
  if (interaction !== null) {
    const { parts, effect, ...rest } = interaction;
    record.parts = parts;
    record.interaction = effect;
    for (const [name, value] of Object.entries(rest)) record[`interaction_${name}`] = value;
  }
  record.error = error;
  return record;
}

/** The record as a table holds it: an interval is two columns (…_low, …_high), a list is joined. */
export function flatRecord(row: Row): Record<string, string | number | boolean | null> {
  return Object.fromEntries(
    Object.entries(rowRecord(row)).flatMap(
      ([column, value]): [string, string | number | boolean | null][] => {
        if (column.endsWith("ci95")) {
          const [low, high] = (value as Interval | null) ?? [null, null];
          return [
            [`${column}_low`, low],
            [`${column}_high`, high],
          ];
        }
        if (column === "heads") return [[column, (value as Row["heads"])?.join(" ") ?? null]];
        if (["flags", "parts", "interaction_flags"].includes(column))
          return [[column, (value as readonly string[]).join("; ")]];
        if (column === "interventions") return [[column, JSON.stringify(value)]];
        return [[column, value as string | number | boolean | null]];
      },
    ),
  );
}

/** Every column of these records, the metrics' own before `error`. */
export function flatColumns(records: Iterable<Record<string, unknown>>): string[] {
  const columns = new Set<string>();
  for (const record of records) for (const column of Object.keys(record)) columns.add(column);
  columns.delete("error");
  return [...columns, "error"];
}

/** What decides which columns a table has. */
export type TableShape = Pick<Table, "metrics" | "interactions">;

/** The columns of records of a table's rows. */
export function tableColumns({ metrics, interactions }: TableShape): string[] {
  const nothing = { mean: null, se: null, ci95: null };
  const blank = emptyRow({ condition: { id: "", interventions: [] }, flags: [], seconds: 0 });
  const row = {
    ...blank,
    metrics: Object.fromEntries(metrics.map((name) => [name, nothing])),
    interaction: interactions ? { parts: [], ...NOTHING } : null,
  };
  return flatColumns([flatRecord(row)]);
}
