/** ★ The columns of a row, in order: what each holds, and where it comes from. JSON, CSV, SQLite and docs follow. */
import { conditionColumns } from "../plan/conditions.ts";
import { type Estimate, finite, ratioInterval } from "../statistics/effects.ts";
import type { ConditionMeasurements, Draft, Row } from "./row.ts";

/** What is known of a condition before anything is compared. */
export type Begun = Pick<ConditionMeasurements, "condition" | "flags" | "seconds">;

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
  /** Where nothing is measured. */
  readonly begun: (begun: Begun) => T;
  /** Once it is measured. */
  readonly level?: (level: Level) => T;
  /** Once it is compared with the baseline. */
  readonly effect?: (effect: Estimate) => T;
  /** Of the baseline, which is compared with nothing. */
  readonly baseline?: T;
  /** As CSV and SQLite hold what is no number or text; an interval is two columns there. */
  readonly flat?: (value: T) => string | null;
}

type Columns = { readonly [K in keyof Row]: Column<Row[K]> };

const nothing = () => null;
const listed = (values: readonly string[]): string => values.join("; ");

export const COLUMNS: Columns = {
  condition: { sql: "TEXT NOT NULL UNIQUE", begun: ({ condition }) => condition.id },
  kind: { sql: "TEXT", begun: ({ condition }) => conditionColumns(condition).kind },
  layer: { sql: "INTEGER", begun: ({ condition }) => conditionColumns(condition).layer },
  heads: {
    sql: "TEXT",
    begun: ({ condition }) => conditionColumns(condition).heads,
    flat: (heads) => heads?.join(" ") ?? null,
  },
  mode: { sql: "TEXT", begun: ({ condition }) => conditionColumns(condition).mode },
  interventions: {
    sql: "TEXT",
    begun: ({ condition }) => condition.interventions,
    flat: (interventions) => JSON.stringify(interventions),
  },
  status: { sql: "TEXT", begun: () => "pending", baseline: "done" },
  nll: { sql: "REAL", begun: nothing, level: ({ nll }) => nll },
  delta_nll: { sql: "REAL", begun: nothing, effect: ({ mean }) => mean, baseline: 0 },
  se: { sql: "REAL", begun: nothing, effect: ({ se }) => se },
  ci95: { sql: "REAL", begun: nothing, effect: ({ ci95 }) => ci95 },
  p: { sql: "REAL", begun: nothing, effect: ({ p }) => p },
  q: { sql: "REAL", begun: nothing },
  distinguishable: { sql: "INTEGER", begun: nothing },
  flags: { sql: "TEXT", begun: ({ flags }) => flags, flat: listed },
  perplexity: { sql: "REAL", begun: nothing, level: ({ nll }) => finite(Math.exp(nll)) },
  perplexity_ratio: {
    sql: "REAL",
    begun: nothing,
    effect: ({ mean }) => finite(Math.exp(mean)),
    baseline: 1,
  },
  perplexity_ratio_ci95: { sql: "REAL", begun: nothing, effect: ({ ci95 }) => ci95 && ratioInterval(ci95) },
  blocks: { sql: "INTEGER", begun: () => 0, level: ({ blocks }) => blocks },
  tokens: { sql: "INTEGER", begun: () => 0, level: ({ tokens }) => tokens },
  seconds: { sql: "REAL", begun: ({ seconds }) => seconds },
  metrics: { sql: "REAL", begun: () => ({}) },
  interaction: { sql: "REAL", begun: nothing },
  error: { sql: "TEXT", begun: nothing },
  standing: { sql: "REAL", begun: nothing },
};

type Name = keyof Row;
const NAMES = Object.keys(COLUMNS) as Name[];

/** SQLite's type of a column of `flatRecord`: of those that are made from metrics and interactions too. */
export const sqlType = (column: string): string =>
  Object.hasOwn(COLUMNS, column) ? COLUMNS[column as Name].sql : (OF_INTERACTION[column] ?? "REAL");

const OF_INTERACTION: Readonly<Record<string, string>> = {
  parts: "TEXT",
  interaction_distinguishable: "INTEGER",
  interaction_flags: "TEXT",
  interaction_blocks: "INTEGER",
};

/** The row of a condition of which nothing is measured. */
export function begunRow(begun: Begun): Draft {
  const row: Partial<Record<Name, unknown>> = {};
  for (const name of NAMES) row[name] = COLUMNS[name].begun(begun);
  return row as Draft;
}

export const fillLevel = (row: Draft, level: Level): void => fill(row, ({ level: of }) => of?.(level));
export const fillEffect = (row: Draft, effect: Estimate): void => fill(row, ({ effect: of }) => of?.(effect));
export const fillBaseline = (row: Draft): void => fill(row, ({ baseline }) => baseline);

/** @param value undefined: the column stays as it is. */
function fill(row: Draft, value: (column: Column<unknown>) => unknown): void {
  for (const name of NAMES) {
    const found = value(COLUMNS[name] as Column<unknown>);
    if (found !== undefined) Object.assign(row, { [name]: found });
  }
}

/** A value of the column as CSV and SQLite hold it. */
export function flat(column: string, value: unknown): string | number | boolean | null {
  const lay = Object.hasOwn(COLUMNS, column) ? (COLUMNS[column as Name] as Column<unknown>).flat : undefined;
  if (lay !== undefined) return lay(value);
  return Array.isArray(value) ? listed(value) : (value as string | number | boolean | null);
}
