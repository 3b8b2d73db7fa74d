/**
 * What a run was made from, as it lay on disk: a finished run is recognised by it without a model being loaded. Tables of
 * results.sqlite, absent in runs of 0.1.0 until they are resumed.
 */
import Database from "better-sqlite3";
import type { ModelFiles } from "../protocol/messages.ts";
import { type CheckedTable, verifyChecksums, writeChecksums } from "./checksums.ts";
import type { Seen } from "./seen.ts";

export const SEEN_TABLES = `
CREATE TABLE IF NOT EXISTS model_file (
  name TEXT PRIMARY KEY,             -- relative to the model's directory, or as its index or tokenizer gives it
  sha256 TEXT NOT NULL,              -- of its content
  stamp TEXT NOT NULL                -- its size, mtime and ctime in ns, inode, when it had this content
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen (
  part TEXT PRIMARY KEY,             -- a key of the config, or of the model's directory
  value TEXT NOT NULL                -- digest of what it names, or the name itself
) WITHOUT ROWID;
`;

const NAMES: readonly CheckedTable[] = ["model_file", "seen"];

/** Where the model lay, in `seen` beside the parts of the config. */
const DIRECTORY = "model directory";
const ENTRIES = "model entries";

/** null where there is none. */
export function readSeen(database: Database.Database): Seen | null {
  const exist = database.prepare("SELECT count(*) FROM sqlite_schema WHERE name = 'model_file'").pluck();
  if (exist.get() !== 1) return null;
  const files = database.prepare("SELECT name, sha256, stamp FROM model_file ORDER BY name").all();
  const rows = database.prepare("SELECT part, value FROM seen").raw().all() as [string, string][];
  const {
    [DIRECTORY]: directory,
    [ENTRIES]: entries_sha256,
    ...inputs
  } = Object.fromEntries(rows) as Record<string, string>;
  if (directory === undefined || entries_sha256 === undefined) return null;
  return { model: { directory, entries_sha256, files: files as ModelFiles["files"] }, inputs };
}

export function writeSeen(database: Database.Database, { model, inputs }: Seen): void {
  database.transaction(() => {
    // Tables without their checksums, after a kill between the two, would look like damage.
    database.exec(`${SEEN_TABLES} DELETE FROM model_file; DELETE FROM seen`);
    const addFile = database.prepare("INSERT INTO model_file VALUES (?, ?, ?)");
    const add = database.prepare("INSERT INTO seen VALUES (?, ?)");
    for (const { name, sha256, stamp } of model.files) addFile.run(name, sha256, stamp);
    add.run(DIRECTORY, model.directory);
    add.run(ENTRIES, model.entries_sha256);
    for (const [part, value] of Object.entries(inputs)) add.run(part, value);
    writeChecksums(database, NAMES);
  })();
}

/** Of a database that is damaged elsewhere; null where these tables are not as they were written either. */
export function seenInDamaged(path: string): Seen | null {
  let database: Database.Database | undefined;
  try {
    database = new Database(path, { readonly: true });
    verifyChecksums(database, path, NAMES);
    return readSeen(database);
  } catch {
    return null; // the damage is being reported already
  } finally {
    database?.close();
  }
}
