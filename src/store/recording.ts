/** Measurements on their way into the database: in a transaction that stays open until it is committed. */
import type Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";
import type { Measured } from "../results/measurements.ts";
import { storedTally, type Tally, writeChecksum } from "./checksums.ts";

/** Tables that a measurement adds rows to. */
const RECORDED = ["measurement", "attempt"] as const;
type Rows = Readonly<Record<(typeof RECORDED)[number], readonly unknown[][]>>;
type Tallies = Readonly<Record<(typeof RECORDED)[number], Tally>>;

/** Nothing else may be written on the connection between `add` and `commit`. */
export class Recorder {
  readonly #database: Database.Database;
  readonly #begin: Database.Statement;
  readonly #commit: Database.Statement;
  readonly #sum: Database.Statement;
  readonly #stored: Database.Statement;
  readonly #attempt: Database.Statement;
  /** One measurement, whole or not at all. */
  readonly #insert: (measured: Measured) => Rows;
  /** Of the open transaction; undefined outside one. */
  #tallies: Tallies | undefined;

  constructor(database: Database.Database) {
    this.#database = database;
    this.#begin = database.prepare("BEGIN");
    this.#commit = database.prepare("COMMIT");
    this.#sum = database.prepare("INSERT INTO measurement VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING");
    this.#stored = database
      .prepare("SELECT sum FROM measurement WHERE condition = ? AND block = ? AND metric = ?")
      .pluck();
    this.#attempt = database.prepare("INSERT INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
    this.#insert = database.transaction((measured: Measured) => this.#write(measured));
  }

  /** Throws `invalid_message` for sums that do not fit, `measurement_conflict` where others are stored already. */
  add(measured: Measured): void {
    for (const [metric, values] of Object.entries(measured.sums)) {
      if (values.length !== measured.blocks.length || values.some(Number.isNaN)) {
        throw new SparkablateError(
          "invalid_message",
          `condition ${measured.condition}, ${metric}: ${measured.blocks.length} sums were expected, no NaN`,
        );
      }
    }
    if (!this.#database.inTransaction) {
      this.#begin.run();
      this.#tallies = undefined;
    }
    this.#tallies ??= {
      measurement: storedTally(this.#database, "measurement"),
      attempt: storedTally(this.#database, "attempt"),
    };
    const added = this.#insert(measured);
    // Only now: what is refused is rolled back.
    for (const name of RECORDED) for (const row of added[name]) this.#tallies[name].add(row);
  }

  commit(): void {
    if (!this.#database.inTransaction) return;
    for (const name of RECORDED)
      if (this.#tallies !== undefined) writeChecksum(this.#database, name, this.#tallies[name]);
    this.#tallies = undefined;
    this.#commit.run();
  }

  #write({ condition, batch, blocks, sums, seconds, flags, error }: Measured): Rows {
    const added: unknown[][] = [];
    for (const [metric, values] of Object.entries(sums)) {
      for (const [at, block] of blocks.entries()) {
        const value = values[at];
        if (this.#sum.run(condition, block, metric, value).changes === 1) {
          added.push([condition, block, metric, value]);
          continue;
        }
        const stored = this.#stored.get(condition, block, metric);
        if (stored === value) continue;
        throw new SparkablateError(
          "measurement_conflict",
          `condition ${condition}, block ${block}, ${metric}: ${value} was measured where ${stored} is stored`,
        );
      }
    }
    const attempt = [
      condition,
      batch,
      new Date().toISOString(),
      seconds,
      JSON.stringify(flags),
      error?.code ?? null,
      error?.message ?? null,
      error?.detail ?? null,
    ];
    this.#attempt.run(attempt);
    return { measurement: added, attempt: [attempt] };
  }
}
