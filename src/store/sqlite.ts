/** results.sqlite: the truth of a run. One writer (store/lock.ts), any number of readers. */

import { existsSync } from "node:fs";
import { join } from "node:path";
import type Database from "better-sqlite3";
import { type ErrorCode, SparkablateError } from "../errors.ts";
import type { Means } from "../plan/needs.ts";
import type { DonorMode } from "../protocol/catalog.ts";
import type { Condition } from "../protocol/messages.ts";
import type { RunRecord } from "../results/facts.ts";
import { divisor } from "../results/facts.ts";
import type { TableShape } from "../results/layout.ts";
import type { Measured } from "../results/measurements.ts";
import type { ConditionMeasurements, Row } from "../results/row.ts";
import type { TaskItem } from "../samples/task-file.ts";
import { writeAllChecksums, writeChecksums } from "./checksums.ts";
import { storeError } from "./failure.ts";
import { fileId } from "./file-id.ts";
import { connected, connectedToRead, makeReady, mergeLog, verify } from "./opening.ts";
import { requireOwnFiles } from "./own-files.ts";
import { Recorder } from "./recording.ts";
import { writeResultTable } from "./result-table.ts";
import { scan } from "./scan.ts";
import { SCHEMA_VERSION, UNCHECKED_VERSION } from "./schema.sql.ts";
import type { Seen } from "./seen.ts";
import { readSeen, writeSeen } from "./seen-tables.ts";
import { SqliteTokenTables } from "./token-tables.ts";
import type { TokenTables } from "./tokens.ts";

/** Commits are coalesced: a crash costs at most this much of what was measured. */
const COMMIT_EVERY_MS = 1_000;

export interface BlockRecord {
  /** resample, patch: what the evaluation block of the same ordinal takes its activations from. */
  readonly split: "evaluation" | "calibration" | DonorMode;
  readonly ordinal: number;
  readonly position: number;
  readonly sha256: string;
  /** Of an evaluation block that is an item of a task. */
  readonly item?: StoredItem;
}

export interface StoredItem extends TaskItem {
  /** Of the answer. */
  readonly tokens: number;
}

export const databasePath = (directory: string): string => join(directory, "results.sqlite");

export class RunStore {
  readonly #path: string;
  readonly #database: Database.Database;
  /** Of the file that a writer opened. */
  readonly #id: string | undefined;
  /** Whether what is read has its checksums. */
  readonly #isChecked: boolean;
  #recorder: Recorder | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** A failed background commit, thrown at the next call. */
  #failure: unknown;
  /** As it was written or read: with the text of thousands of targets it is megabytes, and only its end comes later. */
  #run: RunRecord | undefined;

  private constructor(path: string, database: Database.Database, isChecked: boolean, id?: string) {
    this.#path = path;
    this.#database = database;
    this.#isChecked = isChecked;
    this.#id = id;
  }

  /** Opens for writing, creating the tables where there is no database yet. Never overwrites a broken one. */
  static open(directory: string): RunStore {
    const path = databasePath(directory);
    requireOwnFiles(directory, true);
    // A connection that may write changes a file by closing it, so a broken one must never see one.
    let version = SCHEMA_VERSION;
    if (existsSync(path))
      connected(path, { readonly: true }, (database) => {
        version = verify(database, path);
      }).close();
    const database = connected(path, {}, makeReady);
    return new RunStore(path, database, version !== UNCHECKED_VERSION, fileId(path));
  }

  /** Opens an existing run for reading. Throws `input_missing` where there is none. */
  static read(directory: string): RunStore {
    const path = databasePath(directory);
    requireOwnFiles(directory, false);
    if (!existsSync(path)) {
      throw new SparkablateError(
        "input_missing",
        `${directory} is not a run directory: it has no results.sqlite`,
      );
    }
    let version = SCHEMA_VERSION;
    const database = connectedToRead(path, (opened) => {
      version = verify(opened, path);
      if (version === 0) {
        throw new SparkablateError("input_missing", `${directory}: the run was stopped before it began`);
      }
    });
    return new RunStore(path, database, version !== UNCHECKED_VERSION);
  }

  /** What `work` reads is one state of the run, whatever is written meanwhile. Throws as `read`. */
  static reading<T>(directory: string, work: (store: RunStore) => T): T {
    const store = RunStore.read(directory);
    try {
      return store.#guard(() => store.#database.transaction(() => work(store))());
    } finally {
      store.close();
    }
  }

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw this.#failed(error);
    }
  }

  #failed(error: unknown): unknown {
    const failure = storeError(error, this.#path);
    // What has checksums is as it was written; without them any value may be anything.
    if (this.#isChecked || failure instanceof SparkablateError) return failure;
    return new SparkablateError("store_corrupt", `${this.#path} is damaged: ${String(error)}`, {
      cause: error,
    });
  }

  run(): RunRecord | undefined {
    return this.#guard(() => {
      this.#run ??= this.#readRun();
      if (this.#run === undefined) return undefined;
      const finished = this.#database.prepare("SELECT finished_at FROM run").pluck().get() as string | null;
      return { ...this.#run, facts: { ...this.#run.facts, finished } };
    });
  }

  #readRun(): RunRecord | undefined {
    const row = this.#database.prepare("SELECT * FROM run").get() as
      | Record<string, string | null>
      | undefined;
    if (row === undefined) return undefined;
    return {
      run_id: String(row.run_id),
      identity: JSON.parse(String(row.identity)),
      model: JSON.parse(String(row.model)),
      facts: JSON.parse(String(row.facts)),
      notices: JSON.parse(String(row.notices)),
    };
  }

  /** Writes the run, its blocks and its conditions in one transaction. */
  begin(
    run: RunRecord,
    blocks: Iterable<BlockRecord>,
    conditions: readonly Condition[],
    means: Means | null,
  ): void {
    const database = this.#database;
    this.#guard(() =>
      database.transaction(() => {
        database
          .prepare("INSERT INTO run VALUES (?, ?, ?, ?, ?, NULL)")
          .run(
            run.run_id,
            JSON.stringify(run.identity),
            JSON.stringify(run.model),
            JSON.stringify(run.facts),
            JSON.stringify(run.notices),
          );
        const addBlock = database.prepare("INSERT INTO block VALUES (?, ?, ?, ?)");
        const addItem = database.prepare("INSERT INTO item VALUES (?, ?, ?, ?, ?)");
        for (const { split, ordinal, position, sha256, item } of blocks) {
          addBlock.run(split, ordinal, position, sha256);
          if (item !== undefined)
            addItem.run(ordinal, item.prompt, item.answer, item.wrong ?? null, item.tokens);
        }
        const addCondition = database.prepare("INSERT INTO condition VALUES (?, ?, ?, ?)");
        for (const [ordinal, { id, interventions, nudge }] of conditions.entries()) {
          addCondition.run(
            ordinal,
            id,
            JSON.stringify(interventions),
            nudge === undefined ? null : JSON.stringify(nudge),
          );
        }
        if (means !== null) {
          const addMeans = database.prepare("INSERT INTO mean VALUES (?, ?, ?)");
          addMeans.run(means.sha256, JSON.stringify(means.sites), means.vectors);
        }
        writeAllChecksums(database);
      })(),
    );
    this.#run = run;
  }

  /** What the run was made from; null where it was not written down. */
  seen(): Seen | null {
    return this.#guard(() => readSeen(this.#database));
  }

  keepSeen(seen: Seen): void {
    this.#guard(() => writeSeen(this.#database, seen));
  }

  /** When the rows of a finished run last changed. */
  unchangedSince(): string {
    const select = "SELECT max(at, finished_at) FROM run, (SELECT max(at) AS at FROM attempt)";
    return this.#guard(() => this.#database.prepare(select).pluck().get() as string);
  }

  means(): Means | null {
    return this.#guard(() => {
      const row = this.#database.prepare("SELECT sha256, sites, vectors FROM mean").get() as
        | { sha256: string; sites: string; vectors: Uint8Array }
        | undefined;
      return row === undefined ? null : { ...row, sites: JSON.parse(row.sites) };
    });
  }

  /** Stores one measurement; it is committed within a second, or by `flush`. A failed commit is thrown here next. */
  record(measured: Measured): void {
    if (this.#failure !== undefined) throw this.#failure;
    this.#recorder ??= new Recorder(this.#database);
    const recorder = this.#recorder;
    this.#guard(() => recorder.add(measured));
    this.#timer ??= setTimeout(() => {
      try {
        this.flush();
      } catch (error) {
        this.#failure = error;
      }
    }, COMMIT_EVERY_MS);
  }

  /** Commits what was recorded. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#failure !== undefined) throw this.#failure;
    this.#guard(() => this.#recorder?.commit());
    this.requireInPlace();
  }

  /**
   * Throws `storage_failed` where the file that is written to no longer has its name: SQLite would go on writing to
   * one that nobody finds.
   */
  requireInPlace(): void {
    if (this.#id === undefined || fileId(this.#path) === this.#id) return;
    throw new SparkablateError(
      "storage_failed",
      `${this.#path} was moved, deleted or replaced while the run was writing to it`,
      { help: "Put the run directory back where it was, and run the same command again." },
    );
  }

  /** The baseline and the edits, in canonical order, without what was measured of them. To be read to the end in one go. */
  *conditions(): Generator<Condition> {
    try {
      const select = this.#database.prepare(
        "SELECT id, interventions FROM condition WHERE nudge IS NULL ORDER BY ordinal",
      );
      for (const row of select.iterate()) {
        const { id, interventions } = row as { id: string; interventions: string };
        yield { id, interventions: JSON.parse(interventions) };
      }
    } catch (error) {
      throw this.#failed(error);
    }
  }

  /** Calls `visit` for every stored sum; linear in their number. */
  forEachSum(visit: (condition: number, block: number, metric: string, sum: number) => void): void {
    this.#guard(() => {
      const select = this.#database.prepare("SELECT condition, block, metric, sum FROM measurement").raw();
      for (const row of select.iterate()) visit(...(row as [number, number, string, number]));
    });
  }

  /** Conditions whose last attempt failed, and how. */
  failures(): Map<number, { code: ErrorCode; message: string }> {
    return this.#guard(() => {
      const rows = this.#database
        .prepare(
          `SELECT condition, code, message FROM attempt
           WHERE rowid IN (SELECT max(rowid) FROM attempt GROUP BY condition) AND code IS NOT NULL`,
        )
        .all() as { condition: number; code: ErrorCode; message: string }[];
      return new Map(rows.map(({ condition, code, message }) => [condition, { code, message }]));
    });
  }

  /** Sums of NLL by block of one condition; empty where nothing is measured. */
  nllSums(condition: number): Map<number, number> {
    return this.#guard(() => {
      const rows = this.#database
        .prepare("SELECT block, sum FROM measurement WHERE condition = ? AND metric = 'nll' ORDER BY block")
        .raw()
        .all(condition);
      return new Map(rows as [number, number][]);
    });
  }

  /** What `work` does with the values a token. */
  tokens<T>(work: (tables: TokenTables) => T): T {
    return this.#guard(() => work(new SqliteTokenTables(this.#database)));
  }

  /** Writes the table `result`: the run as it stands, for people with an SQLite shell. */
  writeResults(shape: TableShape, give: (add: (row: Row) => void) => void): void {
    this.#guard(() => writeResultTable(this.#database, shape, give));
  }

  blocks(split: BlockRecord["split"]): BlockRecord[] {
    return this.#guard(
      () =>
        this.#database
          .prepare("SELECT * FROM block WHERE split = ? ORDER BY ordinal")
          .all(split) as BlockRecord[],
    );
  }

  finish(at: string): void {
    this.flush();
    this.#guard(() =>
      this.#database.transaction(() => {
        this.#database.prepare("UPDATE run SET finished_at = ?").run(at);
        writeChecksums(this.#database, ["run"]);
      })(),
    );
  }

  /**
   * Every condition with what was measured of it, in canonical order, one at a time: the baseline and the edits, or
   * the null conditions. Nothing can be written through this store before it is read to the end or broken off.
   */
  *measurements(which: "edits" | "nulls"): Generator<ConditionMeasurements> {
    try {
      const facts = this.run()?.facts;
      if (facts === undefined) return;
      yield* scan(this.#database, which, divisor(facts), facts.task == null ? null : this.#answerTokens());
    } catch (error) {
      throw this.#failed(error);
    }
  }

  /** Tokens of each item's answer, by ordinal. */
  #answerTokens(): number[] {
    return this.#database.prepare("SELECT tokens FROM item ORDER BY ordinal").pluck().all() as number[];
  }

  /** A reader of what is committed by now. */
  snapshot(): RunStore {
    const reader = new RunStore(
      this.#path,
      connected(this.#path, { readonly: true }, () => undefined),
      true,
    );
    reader.#run = this.#run;
    return reader;
  }

  close(): void {
    if (!this.#database.open) return;
    try {
      this.flush();
      if (!this.#database.readonly) this.#guard(() => mergeLog(this.#database));
    } finally {
      clearTimeout(this.#timer);
      this.#database.close();
    }
  }
}
