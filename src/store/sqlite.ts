/** results.sqlite: the truth of a run. One writer (store/lock.ts), any number of readers. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { type ErrorCode, SparkablateError } from "../errors.ts";
import type { Measured } from "../measurements.ts";
import type { Condition, LoadedModel, MeanSite } from "../protocol.ts";
import { type ConditionMeasurements, divisor, type Row, type RunFacts, type TableShape } from "../rows.ts";
import type { SourceMode } from "../sources.ts";
import type { TaskItem } from "../tasks.ts";
import { storeError } from "./failure.ts";
import type { Identity } from "./fingerprint.ts";
import { Recorder } from "./recording.ts";
import { writeResultTable } from "./result-table.ts";
import { scan } from "./scan.ts";
import { SCHEMA, SCHEMA_VERSION } from "./schema.sql.ts";
import { readSeen, type Seen, writeSeen } from "./seen-tables.ts";
import { SqliteTokenTables } from "./token-tables.ts";
import type { TokenTables } from "./tokens.ts";

/** Commits are coalesced: a crash costs at most this much of what was measured. */
const COMMIT_EVERY_MS = 1_000;
/** Pages that a connection keeps; up to three are open at once. The binding's own 16 MB each gain nothing here. */
const CACHE_KIB = 2_000;

export interface RunRecord {
  readonly run_id: string;
  /** sha256 or value of everything that makes it this run (store/fingerprint.ts). */
  readonly identity: Identity;
  readonly model: Omit<LoadedModel, "model_files">;
  /** What a report says beside its rows; `finished` is null while conditions are missing. */
  readonly facts: RunFacts;
  readonly notices: readonly string[];
}

export interface BlockRecord {
  /** resample, patch: what the evaluation block of the same ordinal takes its activations from. */
  readonly split: "evaluation" | "calibration" | SourceMode;
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

export interface Means {
  readonly sha256: string;
  readonly sites: readonly MeanSite[];
  readonly vectors: Uint8Array;
}

export const databasePath = (directory: string): string => join(directory, "results.sqlite");

export class RunStore {
  readonly #path: string;
  readonly #database: Database.Database;
  #recorder: Recorder | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** A failed background commit, thrown at the next call. */
  #failure: unknown;

  private constructor(path: string, database: Database.Database) {
    this.#path = path;
    this.#database = database;
  }

  /** Opens for writing, creating the tables where there is no database yet. Never overwrites a broken one. */
  static open(directory: string): RunStore {
    const path = databasePath(directory);
    // A connection that may write changes a file by closing it, so a broken one must never see one.
    if (existsSync(path))
      RunStore.#connect(path, { readonly: true }, (database) => verify(database, path)).close();
    return RunStore.#connect(path, {}, (database) => {
      database.pragma("journal_mode = WAL");
      database.pragma("synchronous = FULL");
      database.pragma("foreign_keys = ON");
      if (database.pragma("user_version", { simple: true }) === 0) {
        database.transaction(() => {
          database.exec(SCHEMA);
          database.pragma(`user_version = ${SCHEMA_VERSION}`);
        })();
      }
    });
  }

  /** Opens an existing run for reading. Throws `input_missing` where there is none. */
  static read(directory: string): RunStore {
    const path = databasePath(directory);
    if (!existsSync(path)) {
      throw new SparkablateError(
        "input_missing",
        `${directory} is no run directory: it has no results.sqlite`,
      );
    }
    return RunStore.#connect(path, { readonly: true }, (database) => {
      if (!verify(database, path)) {
        throw new SparkablateError("input_missing", `${directory}: the run was stopped before it began`);
      }
    });
  }

  static #connect(
    path: string,
    options: Database.Options,
    prepare: (database: Database.Database) => void,
  ): RunStore {
    let database: Database.Database | undefined;
    try {
      database = new Database(path, options);
      database.pragma(`cache_size = -${CACHE_KIB}`);
      prepare(database);
      return new RunStore(path, database);
    } catch (error) {
      database?.close();
      throw storeError(error, path);
    }
  }

  #guard<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw storeError(error, this.#path);
    }
  }

  run(): RunRecord | undefined {
    return this.#guard(() => {
      const row = this.#database.prepare("SELECT * FROM run").get() as
        | Record<string, string | null>
        | undefined;
      if (row === undefined) return undefined;
      return {
        run_id: String(row.run_id),
        identity: JSON.parse(String(row.identity)),
        model: JSON.parse(String(row.model)),
        facts: { ...JSON.parse(String(row.facts)), finished: row.finished_at ?? null },
        notices: JSON.parse(String(row.notices)),
      };
    });
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
      })(),
    );
  }

  /** What the run was made from; null where it was not written down. */
  seen(): Seen | null {
    return this.#guard(() => readSeen(this.#database));
  }

  keepSeen(seen: Seen): void {
    this.#guard(() => writeSeen(this.#database, seen));
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
      throw storeError(error, this.#path);
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

  /** What `work` reads is one state of the run, whatever is written meanwhile. */
  atOnce<T>(work: () => T): T {
    return this.#guard(() => this.#database.transaction(work)());
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
    this.#guard(() => this.#database.prepare("UPDATE run SET finished_at = ?").run(at));
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
      throw storeError(error, this.#path);
    }
  }

  /** Tokens of each item's answer, by ordinal. */
  #answerTokens(): number[] {
    return this.#database.prepare("SELECT tokens FROM item ORDER BY ordinal").pluck().all() as number[];
  }

  /** A reader of what is committed by now. */
  snapshot(): RunStore {
    return RunStore.#connect(this.#path, { readonly: true }, () => undefined);
  }

  close(): void {
    try {
      this.flush();
    } finally {
      clearTimeout(this.#timer);
      this.#database.close();
    }
  }
}

/** Whether the tables are there. Throws `store_corrupt` for a damaged file, and for one that is not ours. */
function verify(database: Database.Database, path: string): boolean {
  const version = database.pragma("user_version", { simple: true });
  const isEmpty = database.prepare("SELECT count(*) FROM sqlite_schema").pluck().get() === 0;
  // The process was killed before it made the tables.
  if (version === 0 && isEmpty) return false;
  if (version !== SCHEMA_VERSION) {
    throw new SparkablateError(
      "store_corrupt",
      `${path} has format ${version}, this version reads ${SCHEMA_VERSION}`,
    );
  }
  const problems = database.pragma("quick_check", { simple: true });
  if (problems !== "ok") throw new SparkablateError("store_corrupt", `${path} is damaged: ${problems}`);
  return true;
}
