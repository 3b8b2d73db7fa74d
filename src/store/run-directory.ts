/** One run's directory: lock, database, and the files derived from it. Opened by the one controller that writes. */
import { realpathSync, renameSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { isRun } from "../config/paths.ts";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import { requireDirectory } from "../files.ts";
import type { RunFacts, RunRecord } from "../results/facts.ts";
import { partsOf } from "../results/interactions.ts";
import { PackedRows, type Rows } from "../results/packed-rows.ts";
import type { ConditionMeasurements, Row } from "../results/row.ts";
import { Totals } from "../results/summary.ts";
import { onTopOf, type Table, tabulate } from "../results/tabulate.ts";
import { type NumericFloor, numericFloor } from "../statistics/floor.ts";
import { requireOurs } from "./claim.ts";
import { storeError } from "./failure.ts";
import { type Lock, lockDirectory } from "./lock.ts";
import { sweepTemporaries, writeConfig, writeRows, writeSummary } from "./projections.ts";
import { databasePath, RunStore } from "./sqlite.ts";

/** Derived files are rewritten at most this often while a sweep runs. */
const PROJECT_EVERY_MS = 5_000;

export class RunDirectory {
  readonly path: string;
  readonly store: RunStore;
  /** False: nobody could tell whether the model is still what was measured; summary.json says so then. */
  modelChecked = true;
  readonly #lock: Lock;
  #projectedAt = Number.NEGATIVE_INFINITY;

  private constructor(path: string, lock: Lock, store: RunStore) {
    this.path = path;
    this.#lock = lock;
    this.store = store;
  }

  /** @param fresh moves what is there aside, under a name with the time. */
  static open(path: string, fresh: boolean): RunDirectory {
    makeDirectory(path);
    requireOurs(path);
    if (fresh && isRun(path)) moveAside(path);
    const lock = lockDirectory(path);
    try {
      sweepTemporaries(path);
      return new RunDirectory(path, lock, RunStore.open(path));
    } catch (error) {
      lock.release();
      throw error;
    }
  }

  /**
   * The id of a run that is yet to be written down: of this file on this machine, so that a run that is killed before
   * its first transaction finds its worker again at once, and not after the 30 s that another's would hold it.
   */
  idToBegin(): string {
    const { ino, birthtimeMs } = statSync(databasePath(this.path));
    return sha256(`${hostname()} ${this.path} ${ino} ${birthtimeMs}`).slice(0, 32);
  }

  /** Rewrites what is derived from the database: the table `result`, results.jsonl, summary.json, config.yaml. */
  project(): void {
    const stored = this.store.run();
    if (stored === undefined) return;
    this.store.flush();
    // What is read must stand still, and SQLite writes nothing on a connection that is reading.
    const reader = this.store.snapshot();
    try {
      const { run, table } = tableOf(reader, stored);
      const totals = new Totals();
      this.store.writeResults(table, (add) => {
        const rows = table.rows().map((row) => {
          add(row);
          totals.add(row);
          return row;
        });
        writeRows(this.path, rows);
      });
      writeConfig(this.path, run.facts.config);
      writeSummary(this.path, {
        ...totals.summarize(run),
        ...(this.modelChecked ? {} : { model_checked: false }),
      });
    } finally {
      reader.close();
    }
    this.#projectedAt = performance.now();
  }

  /** As `project`, but not more often than a person would look. */
  projectNowAndThen(): void {
    if (performance.now() - this.#projectedAt > PROJECT_EVERY_MS) this.project();
  }

  close(): void {
    try {
      this.store.close();
    } finally {
      this.#lock.release();
    }
  }
}

/** A run directory as a reader sees it, finished or not. */
export interface StoredRun {
  /** All that a report says of it beside its rows. */
  readonly facts: RunFacts;
  /** The baseline first. */
  readonly rows: readonly Row[];
  /** What `summary.json` holds. */
  readonly summary: Readonly<Record<string, unknown>>;
}

/** As reports take it. */
export interface ReportedRun extends Omit<StoredRun, "rows"> {
  readonly rows: Rows;
}

/**
 * Reads a run; a sweep that is writing to it is not disturbed.
 *
 * @throws SparkablateError input_missing where there is none.
 */
export const readRun = (path: string): StoredRun => readInto(path, [] as Row[]);

/** As `readRun`, fit for 100,000 conditions. */
export const readPacked = (path: string): ReportedRun => readInto(path, new PackedRows());

function readInto<R extends { push(row: Row): unknown }>(path: string, rows: R) {
  return reading(path, ({ run, table }) => {
    const totals = new Totals();
    for (const row of table.rows()) {
      totals.add(row);
      rows.push(row);
    }
    return { facts: run.facts, rows, summary: totals.summarize(run) };
  });
}

export const isFailed = ({ status }: Row): boolean => status === "failed";

/** Whether a condition of the run failed; no row is kept. Throws as `readRun`. */
export function hasFailures(path: string): boolean {
  return reading(path, ({ table }) => table.rows().some(isFailed));
}

const reading = <T>(path: string, work: (read: ReturnType<typeof tableOf>) => T): T =>
  RunStore.reading(path, (store) => work(tableOf(store, requireBegun(store, path))));

/** Throws `input_missing` for a directory whose run was never written down. */
export function requireBegun(store: RunStore, path: string): RunRecord {
  const run = store.run();
  if (run !== undefined) return run;
  throw new SparkablateError("input_missing", `${path}: the run was stopped before its first measurement`, {
    help: "Run the same 'sparkablate run' command again.",
  });
}

/** The run with what its null conditions say of rounding, and its rows as they stand. */
export function tableOf(store: RunStore, stored: RunRecord): { run: RunRecord; table: Table } {
  const baseline = firstOf(store.measurements("edits")) as ConditionMeasurements;
  const statistics = {
    ...stored.facts.statistics,
    floor: floorOf(baseline, [...store.measurements("nulls")]),
  };
  const run = { ...stored, facts: { ...stored.facts, statistics } };
  const conditions = () => store.measurements("edits").drop(1);
  const parts = partsOf(() => store.conditions());
  const table = tabulate(baseline, conditions, statistics, parts);
  const { given } = run.facts;
  return { run, table: given === undefined ? table : onTopOf(given, table) };
}

/** Ends the iteration, which otherwise stays open. */
function firstOf<T>(items: Iterable<T>): T | undefined {
  for (const item of items) return item;
  return undefined;
}

/** From the null conditions that are measured on every block of the baseline. */
function floorOf(
  baseline: ConditionMeasurements,
  nulls: readonly ConditionMeasurements[],
): NumericFloor | null {
  const { nll } = baseline.sums;
  if (nll === undefined) return null;
  const whole = nulls.flatMap(({ sums, error }) =>
    error === null && sums.nll?.length === nll.length ? [sums.nll] : [],
  );
  return numericFloor(nll, whole, baseline.tokens);
}

/** Only a directory that no other controller works in may be moved, and none may begin meanwhile. */
function moveAside(path: string): void {
  const lock = lockDirectory(path);
  // A link to another disk keeps leading there.
  const place = realpathSync(path);
  let now = place;
  try {
    const aside = `${place}.${new Date().toISOString().replaceAll(":", "-")}`;
    renameSync(place, aside);
    now = aside;
  } catch (error) {
    throw storeError(error, path);
  } finally {
    lock.release(now);
  }
  makeDirectory(place);
}

function makeDirectory(path: string): void {
  try {
    requireDirectory(path, 0o777, "Choose an output.dir on a local disk that you may write to.");
  } catch (error) {
    throw storeError(error, path);
  }
}
