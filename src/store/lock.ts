/**
 * One writer a run directory. The lock is an SQLite file held in BEGIN EXCLUSIVE, which the kernel frees when
 * the process dies, however it dies; the owner written beside it is for the message only.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";
import { storeError } from "./failure.ts";

export interface Lock {
  release(): void;
}

/** Throws `run_locked`, naming the holder, where another controller works in this directory. */
export function lockDirectory(directory: string): Lock {
  const ownerFile = join(directory, "run.lock.owner");
  let database: Database.Database | undefined;
  try {
    database = new Database(join(directory, "run.lock"), { timeout: 0 });
    database.exec("BEGIN EXCLUSIVE");
    writeFileSync(ownerFile, `pid ${process.pid} on ${hostname()} since ${new Date().toISOString()}\n`);
  } catch (error) {
    database?.close();
    if (error instanceof Database.SqliteError && error.code.startsWith("SQLITE_BUSY")) {
      throw new SparkablateError("run_locked", `${directory} is in use by ${owner(ownerFile)}`);
    }
    throw storeError(error, directory);
  }
  const held = database;
  return {
    release(): void {
      held.close();
    },
  };
}

function owner(file: string): string {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return "another controller";
  }
}
