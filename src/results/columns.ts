/** ★ The columns of a row, in order: what each holds, and where it comes from. JSON, CSV, SQLite and docs follow. */
import { type ConditionColumns, conditionColumns } from "../plan/conditions.ts";
import { type Estimate, finite, ratioInterval, type SignCount } from "../statistics/effects.ts";
import type { ConditionMeasurements, Draft, Row } from "./row.ts";

/** What is known of a condition before anything is compared. */
type Begun = Pick<ConditionMeasurements, "condition" | "flags" | "seconds">;
interface Described extends Begun {
  readonly edit: ConditionColumns;
}

/** What a condition's own measurements say, over the blocks that count. */
export interface Level {
  /** Nats per predicted token. */
  readonly nll: number;
  readonly blocks: number;
  readonly tokens: number;
}

interface Column<T> {
  /** In results.sqlite. */
  readonly sql: "TEXT" | "INTEGER" | "REAL" | "TEXT NOT NULL UNIQUE";
  /** Where nothing is measured; absent: `begun` says it. */
  readonly blank?: T;
  readonly begun?: (begun: Described) => T;
  /** Once it is measured. */
  readonly level?: (level: Level) => T;
  /** Once it is compared with the baseline. */
  readonly effect?: (effect: Estimate) => T;
  /** Of the differences by block, once it is compared. */
  readonly signs?: (signs: SignCount) => T;
  /** Of the baseline, which is compared with nothing. */
  readonly baseline?: T;
  /** As CSV and SQLite hold what is no number or text; an interval is two columns there. */
  readonly flat?: (value: T) => string | null;
}

/** What a whole run is measured on top of is its table's. */
type Columns = { readonly [K in Exclude<keyof Row, "given">]: Column<Row[K]> };

const listed = (values: readonly string[]): string => values.join("; ");

export const COLUMNS: Columns = {
  condition: { sql: "TEXT NOT NULL UNIQUE", begun: ({ condition }) => condition.id },
  kind: { sql: "TEXT", begun: ({ edit }) => edit.kind },
  layer: { sql: "INTEGER", begun: ({ edit }) => edit.layer },
  heads: {
    sql: "TEXT",
    begun: ({ edit }) => edit.heads,
    flat: (heads) => heads?.join(" ") ?? null,
  },
  mode: { sql: "TEXT", begun: ({ edit }) => edit.mode },
  interventions: {
    sql: "TEXT",
    begun: ({ condition }) => condition.interventions,
    flat: (interventions) => JSON.stringify(interventions),
  },
  status: { sql: "TEXT", blank: "pending", baseline: "done" },
  nll: { sql: "REAL", blank: null, level: ({ nll }) => nll },
  delta_nll: { sql: "REAL", blank: null, effect: ({ mean }) => mean, baseline: 0 },
  se: { sql: "REAL", blank: null, effect: ({ se }) => se },
  ci95: { sql: "REAL", blank: null, effect: ({ ci95 }) => ci95 },
  p: { sql: "REAL", blank: null, effect: ({ p }) => p },
  q: { sql: "REAL", blank: null },
  distinguishable: { sql: "INTEGER", blank: null },
  worse_blocks: {
    sql: "TEXT",
    blank: null,
    signs: ({ worse, changed }) => `${worse} of ${changed}`,
  },
  sign_p: { sql: "REAL", blank: null, signs: ({ p }) => p },
  flags: { sql: "TEXT", begun: ({ flags }) => flags, flat: listed },
  perplexity: { sql: "REAL", blank: null, level: ({ nll }) => finite(Math.exp(nll)) },
  perplexity_ratio: {
    sql: "REAL",
    blank: null,
    effect: ({ mean }) => finite(Math.exp(mean)),
    baseline: 1,
  },
  perplexity_ratio_ci95: { sql: "REAL", blank: null, effect: ({ ci95 }) => ci95 && ratioInterval(ci95) },
  blocks: { sql: "INTEGER", blank: 0, level: ({ blocks }) => blocks },
  tokens: { sql: "INTEGER", blank: 0, level: ({ tokens }) => tokens },
  seconds: { sql: "REAL", begun: ({ seconds }) => seconds },
  metrics: { sql: "REAL", blank: {} },
  interaction: { sql: "REAL", blank: null },
  error: { sql: "TEXT", blank: null },
  standing: { sql: "REAL", blank: null },
};

type Name = keyof Columns;
const NAMES = Object.keys(COLUMNS) as Name[];

/** SQLite's type of a column of `flatRecord`: of those that are made from metrics and interactions too. */
export const sqlType = (column: string): string =>
  Object.hasOwn(COLUMNS, column) ? COLUMNS[column as Name].sql : (OF_SOME[column] ?? "REAL");

/** Columns that only some tables have. */
const OF_SOME: Readonly<Record<string, string>> = {
  given: "TEXT",
  parts: "TEXT",
  interaction_distinguishable: "INTEGER",
  interaction_flags: "TEXT",
  interaction_blocks: "INTEGER",
};

type Maker<T> = readonly [Name, (from: T) => unknown];

/** The columns that say something, one by one: a hundred thousand rows are made of them. */
const making = <T>(of: (column: Column<unknown>) => ((from: T) => unknown) | undefined): Maker<T>[] =>
  NAMES.flatMap((name): Maker<T>[] => {
    const make = of(COLUMNS[name] as Column<unknown>);
    return make === undefined ? [] : [[name, make]];
  });
const BEGUN = making<Described>(({ begun }) => begun);
const LEVEL = making<Level>(({ level }) => level);
const EFFECT = making<Estimate>(({ effect }) => effect);
const SIGNS = making<SignCount>(({ signs }) => signs);
const BASELINE = making<void>(({ baseline }) => (baseline === undefined ? undefined : () => baseline));
/** All of them in order: a copy of it is faster than a row that grows. */
const BLANK = Object.fromEntries(NAMES.map((name) => [name, COLUMNS[name].blank ?? null])) as unknown as Row;

function fill<T>(row: Draft, makers: readonly Maker<T>[], from: T): Draft {
  const cells = row as Record<Name, unknown>;
  for (const [name, make] of makers) cells[name] = make(from);
  return row;
}

/** The row of a condition of which nothing is measured. */
export const begunRow = (begun: Begun): Draft =>
  fill({ ...BLANK }, BEGUN, { ...begun, edit: conditionColumns(begun.condition) });
export const fillLevel = (row: Draft, level: Level) => fill(row, LEVEL, level);
export const fillEffect = (row: Draft, effect: Estimate) => fill(row, EFFECT, effect);
export const fillSigns = (row: Draft, signs: SignCount) => fill(row, SIGNS, signs);
export const fillBaseline = (row: Draft) => fill(row, BASELINE, undefined);

/** A value of the column as CSV and SQLite hold it. */
export function flat(column: string, value: unknown): string | number | boolean | null {
  const lay = Object.hasOwn(COLUMNS, column) ? (COLUMNS[column as Name] as Column<unknown>).flat : undefined;
  if (lay !== undefined) return lay(value);
  return Array.isArray(value) ? listed(value) : (value as string | number | boolean | null);
}
