/** Rows as the columns of JSON, CSV and SQLite. */
import type { Interval } from "../statistics/effects.ts";
import { begunRow, flat } from "./columns.ts";
import type { Row } from "./row.ts";
import { NOTHING, type Table } from "./tabulate.ts";

/** Columns that were renamed since 0.1.0: for one version both names stand. Stored sums keep the first. */
const RENAMED: Readonly<Record<string, string>> = { top1: "top1_changed" };

/** What outputs call a metric's column. */
export const namesOf = (column: string): string[] => [
  column,
  ...(RENAMED[column] === undefined ? [] : [RENAMED[column]]),
];
/** The one that people read. */
export const titleOf = (column: string): string => RENAMED[column] ?? column;

/** The row as JSON and JSONL carry it: the columns in order, the metrics' and the interaction's before `error`. */
export function rowRecord({
  metrics,
  interaction,
  error,
  standing: _,
  given,
  ...columns
}: Row): Record<string, unknown> {
  const record: Record<string, unknown> = { ...columns, ...(given !== undefined && { given }) };
  for (const [column, { mean, se, ci95 }] of Object.entries(metrics)) {
    for (const name of namesOf(column)) {
      record[name] = mean;
      record[`${name}_se`] = se;
      record[`${name}_ci95`] = ci95;
    }
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
        return [[column, flat(column, value)]];
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
export type TableShape = Pick<Table, "metrics" | "interactions" | "given">;

/** The columns of records of a table's rows. */
export function tableColumns({ metrics, interactions, given }: TableShape): string[] {
  const nothing = { mean: null, se: null, ci95: null };
  const blank = begunRow({ condition: { id: "", interventions: [] }, flags: [], seconds: 0 });
  const row = {
    ...blank,
    ...(given !== undefined && { given }),
    metrics: Object.fromEntries(metrics.map((name) => [name, nothing])),
    interaction: interactions ? { parts: [], ...NOTHING } : null,
  };
  return flatColumns([flatRecord(row)]);
}
