/** How results.sqlite is opened: verified before anything is read, never changed where it is damaged. */
import { readFileSync, statSync } from "node:fs";
import Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";
import { verifyChecksums, writeAllChecksums } from "./checksums.ts";
import { storeError } from "./failure.ts";
import { CHECKSUM_TABLE, SCHEMA, SCHEMA_VERSION, UNCHECKED_VERSION } from "./schema.sql.ts";

/** Pages that a connection keeps; up to three are open at once. The binding's own 16 MB each gain nothing here. */
const CACHE_KIB = 2_000;
/** Bytes of the header that say whether a log belongs to the file: 1 no, 2 yes. */
const LOG_MARKS = [18, 20] as const;

export function connected(
  path: string,
  options: Database.Options,
  prepare: (database: Database.Database) => void,
  source: string | Buffer = path,
): Database.Database {
  let database: Database.Database | undefined;
  try {
    database = new Database(source, options);
    database.pragma(`cache_size = -${CACHE_KIB}`);
    database.pragma("cell_size_check = ON");
    prepare(database);
    return database;
  } catch (error) {
    database?.close();
    throw storeError(error, path);
  }
}

/** As `connected`; a file whose log is merged is read where nothing can be written, too. */
export function connectedToRead(
  path: string,
  prepare: (database: Database.Database) => void,
): Database.Database {
  const options = { readonly: true };
  try {
    return connected(path, options, prepare);
  } catch (error) {
    // SQLite cannot do without the log's index, which it would have to make; runs of 0.1.0 end with a log.
    const { cause } = error as Error;
    if (!(cause instanceof Database.SqliteError) || !/^SQLITE_(CANTOPEN|READONLY)/.test(cause.code))
      throw error;
    if ((statSync(`${path}-wal`, { throwIfNoEntry: false })?.size ?? 0) > 0) throw unmerged(path, cause);
    return connected(path, options, prepare, bytesOf(path).fill(1, ...LOG_MARKS));
  }
}

function bytesOf(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw storeError(error, path);
  }
}

const unmerged = (path: string, cause: unknown): SparkablateError =>
  new SparkablateError(
    "storage_failed",
    `${path} has an unmerged log, in a place that cannot be written to`,
    {
      cause,
      help: "Copy the run directory to a place that you may write to, and read it there.",
    },
  );

/** Makes the tables, or adds to those of 0.1.0 what this version keeps beside them. */
export function makeReady(database: Database.Database): void {
  // The change itself would leave a journal behind where the process is killed in the middle of it.
  if (database.pragma("journal_mode", { simple: true }) !== "wal") database.pragma("journal_mode = MEMORY");
  database.pragma("journal_mode = WAL");
  database.pragma("synchronous = FULL");
  database.pragma("foreign_keys = ON");
  const version = database.pragma("user_version", { simple: true });
  if (version === SCHEMA_VERSION) return;
  database.transaction(() => {
    if (version === 0) database.exec(SCHEMA);
    database.exec(CHECKSUM_TABLE);
    writeAllChecksums(database);
    database.pragma(`user_version = ${SCHEMA_VERSION}`);
  })();
}

/** Afterwards the run is one file, which can be read anywhere. */
export function mergeLog(database: Database.Database): void {
  try {
    database.pragma("journal_mode = MEMORY");
  } catch (error) {
    // Whoever reads it holds the log; all that is committed is in the two, and the next writer merges them.
    if (!(error instanceof Database.SqliteError) || !error.code.startsWith("SQLITE_BUSY")) throw error;
  }
}

/**
 * The format's version, 0 where there are no tables yet. Throws `store_corrupt` for a damaged file, and for one that
 * is not ours.
 */
export function verify(database: Database.Database, path: string): number {
  return database.transaction(() => {
    const version = database.pragma("user_version", { simple: true }) as number;
    const isEmpty = database.prepare("SELECT count(*) FROM sqlite_schema").pluck().get() === 0;
    // The process was killed before it made the tables.
    if (version === 0 && isEmpty) return 0;
    if (version !== SCHEMA_VERSION && version !== UNCHECKED_VERSION) {
      throw new SparkablateError(
        "store_corrupt",
        `${path} has format ${version}, this version reads ${UNCHECKED_VERSION} and ${SCHEMA_VERSION}`,
      );
    }
    const problem = database.pragma("integrity_check(1)", { simple: true });
    if (problem !== "ok") throw new SparkablateError("store_corrupt", `${path} is damaged: ${problem}`);
    if (version === SCHEMA_VERSION) verifyChecksums(database, path);
    else verifyUnchecked(database, path);
    return version;
  })();
}

/** What can be said of a run of 0.1.0, which has no checksums. Rows that this finds hold what no run has. */
const STRANGE = `
  SELECT measurement.condition FROM measurement
    LEFT JOIN condition ON condition.ordinal = measurement.condition
    LEFT JOIN block ON block.split = 'evaluation' AND block.ordinal = measurement.block
    WHERE typeof(sum) <> 'real' OR condition.ordinal IS NULL OR block.ordinal IS NULL
  UNION ALL SELECT rowid FROM run WHERE NOT coalesce(
    json_valid(identity) AND json_type(identity) = 'object'
    AND json_valid(model) AND json_type(model, '$.model_map') = 'object'
    AND json_valid(facts) AND json_type(facts, '$.statistics') = 'object'
    AND json_type(facts, '$.numerics') = 'object' AND json_type(facts, '$.numerics.versions') = 'object'
    AND json_extract(facts, '$.seq_len') > 1 AND json_extract(facts, '$.planned_blocks') > 0
    AND json_type(facts, '$.planned_conditions') = 'integer' AND json_type(facts, '$.batch_size') = 'integer'
    AND json_type(facts, '$.name') = 'text' AND json_type(facts, '$.text') = 'text'
    AND json_type(facts, '$.sweep') = 'text' AND json_type(facts, '$.config') = 'text'
    AND json_valid(notices) AND json_type(notices) = 'array', 0)
  UNION ALL SELECT ordinal FROM condition WHERE NOT coalesce(
    json_valid(interventions) AND json_type(interventions) = 'array' AND (nudge IS NULL OR json_valid(nudge)), 0)
  UNION ALL SELECT condition FROM attempt WHERE NOT coalesce(
    json_valid(flags) AND json_type(flags) = 'array' AND typeof(seconds) = 'real', 0)
  UNION ALL SELECT rowid FROM mean WHERE NOT coalesce(json_valid(sites) AND json_type(sites) = 'array', 0)
  UNION ALL SELECT name FROM sqlite_schema WHERE name = 'checksum'
  LIMIT 1`;

function verifyUnchecked(database: Database.Database, path: string): void {
  if (database.prepare(STRANGE).get() === undefined) return;
  throw new SparkablateError("store_corrupt", `${path} is damaged: its contents are not those of a run`);
}
