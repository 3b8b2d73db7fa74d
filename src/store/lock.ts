/**
 * One writer a run directory. The lock is an SQLite file held in BEGIN EXCLUSIVE, which the kernel frees when
 * the process dies, however it dies; the owner written beside it is for the message only.
 */
import { closeSync, constants, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";
import { storeError } from "./failure.ts";
import { fileId } from "./file-id.ts";
import { requireOwnFiles } from "./own-files.ts";

export interface Lock {
  /**
   * Frees the directory, and leaves no file in it.
   * @param moved where the directory is now, if it was moved.
   */
  release(moved?: string): void;
}

/** A holder that ends removes the file; one that comes meanwhile finds that its file has no name, and tries again. */
const MOST_TRIES = 100;

/** Throws `run_locked`, naming the holder, where another controller works in this directory. */
export function lockDirectory(directory: string): Lock {
  const ownerFile = join(directory, "run.lock.owner");
  try {
    for (let tries = 0; tries < MOST_TRIES; tries++) {
      const lock = attempt(directory, ownerFile);
      if (lock !== undefined) return lock;
    }
  } catch (error) {
    throw storeError(error, directory);
  }
  throw locked(directory, ownerFile);
}

/** undefined: the file that is locked is not the one that has the name now. */
function attempt(directory: string, ownerFile: string): Lock | undefined {
  const path = join(directory, "run.lock");
  requireOwnFiles(directory, true);
  // Of a killed 0.1.0. The lock has no content, and SQLite would do whatever is written there.
  rmSync(`${path}-journal`, { force: true });
  create(path);
  const before = fileId(path);
  const database = new Database(path, { timeout: 0 });
  try {
    database.pragma("journal_mode = MEMORY");
    database.exec("BEGIN EXCLUSIVE");
    if (before === undefined || fileId(path) !== before) {
      database.close();
      return undefined;
    }
    writeOwner(ownerFile);
  } catch (error) {
    database.close();
    // SQLite may notice itself that its file has no name.
    if (fileId(path) !== before) return undefined;
    if (error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY"))
      throw locked(directory, ownerFile);
    throw error;
  }
  return {
    release(moved = directory): void {
      const here = join(moved, "run.lock");
      try {
        // While it is held: whoever locks a file of that name afterwards made it anew. In a directory that
        // was replaced meanwhile the names are another's.
        if (fileId(here) === before) {
          rmSync(`${here}.owner`, { force: true });
          rmSync(here, { force: true });
        }
      } catch (error) {
        throw storeError(error, here);
      } finally {
        database.close();
      }
    },
  };
}

/** Not through SQLite, which would follow a link; and never one that is there, as closing it would free our own lock. */
function create(path: string): void {
  try {
    closeSync(openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o666));
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
  }
}

function writeOwner(path: string): void {
  rmSync(path, { force: true });
  const file = openSync(path, constants.O_CREAT | constants.O_EXCL | constants.O_WRONLY, 0o666);
  try {
    writeSync(file, `pid ${process.pid} on ${hostname()} since ${new Date().toISOString()}\n`);
  } finally {
    closeSync(file);
  }
}

function locked(directory: string, ownerFile: string): SparkablateError {
  return new SparkablateError("run_locked", `${directory} is in use by ${owner(ownerFile)}`);
}

function owner(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return "another controller";
  }
}
