/** Measurements on their way into the database: in a transaction that stays open until it is committed. */
import type Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";
import type { Measured } from "../measurements.ts";

/** Nothing else may be written on the connection between `add` and `commit`. */
export class Recorder {
  readonly #database: Database.Database;
  readonly #begin: Database.Statement;
  readonly #commit: Database.Statement;
  readonly #sum: Database.Statement;
  readonly #stored: Database.Statement;
  readonly #attempt: Database.Statement;
  /** One measurement, whole or not at all. */
  readonly #insert: (measured: Measured) => void;

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
    if (!this.#database.inTransaction) this.#begin.run();
    this.#insert(measured);
  }

  commit(): void {
    if (this.#database.inTransaction) this.#commit.run();
  }

  #write({ condition, batch, blocks, sums, seconds, flags, error }: Measured): void {
    for (const [metric, values] of Object.entries(sums)) {
      for (const [at, block] of blocks.entries()) {
        const value = values[at];
        if (this.#sum.run(condition, block, metric, value).changes === 1) continue;
        const stored = this.#stored.get(condition, block, metric);
        if (stored === value) continue;
        throw new SparkablateError(
          "measurement_conflict",
          `condition ${condition}, block ${block}, ${metric}: ${value} was measured where ${stored} is stored`,
        );
      }
    }
    this.#attempt.run(
      condition,
      batch,
      new Date().toISOString(),
      seconds,
      JSON.stringify(flags),
      error?.code ?? null,
      error?.message ?? null,
      error?.detail ?? null,
    );
  }
}
