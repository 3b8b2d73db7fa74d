/** The measurements of a database, condition by condition: three tables read side by side. */
import type Database from "better-sqlite3";
import type { ErrorCode } from "../errors.ts";
import type { ConditionMeasurements } from "../results/row.ts";

/**
 * Every condition with what was measured of it, in canonical order, one at a time: the baseline and the edits, or the
 * null conditions.
 * @param tokens what a sum is divided by.
 * @param answers tokens of each item's answer, by block; null where blocks are measured.
 */
export function* scan(
  database: Database.Database,
  which: "edits" | "nulls",
  tokens: number,
  answers: readonly number[] | null,
): Generator<ConditionMeasurements> {
  const open: { close(): void }[] = [];
  const rows = <T extends { readonly condition: number }>(sql: string): Cursor<T> => {
    const cursor = new Cursor(database.prepare(sql).iterate() as Iterator<T>);
    open.push(cursor);
    return cursor;
  };
  try {
    // A query a condition would take three times as long.
    const sums = rows<SumRow>(
      "SELECT condition, block, metric, sum FROM measurement ORDER BY condition, block, metric",
    );
    const attempts = rows<AttemptRow>(
      "SELECT condition, seconds, flags, code, message FROM attempt ORDER BY condition, rowid",
    );
    const conditions = rows<ConditionRow>(
      `SELECT ordinal AS condition, id, interventions, nudge FROM condition
       WHERE nudge IS ${which === "nulls" ? "NOT NULL" : "NULL"} ORDER BY ordinal`,
    );
    for (let row = conditions.head(); row !== undefined; row = conditions.head()) {
      conditions.takeOf(row.condition);
      const measured = asMeasurements(row, sums.takeOf(row.condition), attempts.takeOf(row.condition));
      yield { ...measured, tokens, answers };
    }
  } finally {
    for (const cursor of open) cursor.close();
  }
}

/** Rows in the order of their condition, taken condition by condition; what is not asked for is passed over. */
class Cursor<T extends { readonly condition: number }> {
  readonly #rows: Iterator<T>;
  #head: T | undefined;

  constructor(rows: Iterator<T>) {
    this.#rows = rows;
    this.#head = this.#next();
  }

  head(): T | undefined {
    return this.#head;
  }

  takeOf(condition: number): T[] {
    const taken: T[] = [];
    for (; this.#head !== undefined && this.#head.condition <= condition; this.#head = this.#next())
      if (this.#head.condition === condition) taken.push(this.#head);
    return taken;
  }

  close(): void {
    this.#rows.return?.();
  }

  #next(): T | undefined {
    const { done, value } = this.#rows.next();
    return done ? undefined : value;
  }
}

interface ConditionRow {
  readonly condition: number;
  readonly id: string;
  readonly interventions: string;
  readonly nudge: string | null;
}

interface SumRow {
  readonly condition: number;
  readonly block: number;
  readonly metric: string;
  readonly sum: number;
}

interface AttemptRow {
  readonly condition: number;
  readonly seconds: number;
  readonly flags: string;
  readonly code: ErrorCode | null;
  readonly message: string | null;
}

function asMeasurements(
  { id, interventions, nudge }: ConditionRow,
  sums: readonly SumRow[],
  attempts: readonly AttemptRow[],
): Omit<ConditionMeasurements, "tokens"> {
  const byMetric = new Map<string, number[]>();
  const blocks = new Set<number>();
  for (const { block, metric, sum } of sums) {
    blocks.add(block);
    const values = byMetric.get(metric);
    if (values === undefined) byMetric.set(metric, [sum]);
    else values.push(sum);
  }
  const last = attempts.at(-1);
  return {
    condition: {
      id,
      interventions: JSON.parse(interventions),
      ...(nudge === null ? {} : { nudge: JSON.parse(nudge) }),
    },
    blocks: [...blocks],
    sums: Object.fromEntries([...byMetric].map(([metric, values]) => [metric, Float64Array.from(values)])),
    seconds: attempts.reduce((total, { seconds }) => total + seconds, 0),
    flags: [...new Set(attempts.flatMap(({ flags }) => JSON.parse(flags) as string[]))].sort(),
    error: last?.code ? { code: last.code, message: last.message ?? "" } : null,
  };
}
