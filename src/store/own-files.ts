/** A run directory may have been made by somebody else: its files are files, never ways to others. */
import { lstatSync, type Stats } from "node:fs";
import { join } from "node:path";
import { SparkablateError } from "../errors.ts";
import { storeError } from "./failure.ts";

/** What SQLite opens by name, following links. */
const OPENED = ["results.sqlite", "results.sqlite-wal", "results.sqlite-shm", "run.lock", "run.lock.owner"];
/** A rollback journal may name further files to delete. This program never leaves one. */
const JOURNAL = "results.sqlite-journal";

/**
 * @param toWrite whether these files are to be changed: one with two names would change at its other place too.
 * @throws SparkablateError not_ours for links and devices in the place of the run's files, and for others' journals.
 */
export function requireOwnFiles(directory: string, toWrite: boolean): void {
  for (const name of OPENED) {
    const path = join(directory, name);
    const fault = faultOf(stateOf(path), toWrite);
    if (fault !== undefined) throw foreign(path, fault);
  }
  const journal = join(directory, JOURNAL);
  if (stateOf(journal) !== undefined)
    throw foreign(journal, "is the journal of another program that was writing to the database");
}

/** @throws SparkablateError not_ours where `path` is there and is not a directory itself. */
export function requireOwnFolder(path: string): void {
  const stats = stateOf(path);
  if (stats === undefined || stats.isDirectory()) return;
  throw foreign(path, stats.isSymbolicLink() ? "is a symbolic link" : "is not a directory");
}

/** undefined where nothing is there, and below a file nothing is. */
function stateOf(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOTDIR") return undefined;
    throw storeError(error, path);
  }
}

function faultOf(stats: Stats | undefined, toWrite: boolean): string | undefined {
  if (stats === undefined) return undefined;
  if (stats.isSymbolicLink()) return "is a symbolic link";
  if (!stats.isFile()) return "is not a file";
  if (toWrite && stats.nlink > 1) return "has a second name elsewhere, a hard link";
  return undefined;
}

const foreign = (path: string, fault: string): SparkablateError =>
  new SparkablateError("not_ours", `${path} ${fault}: a run directory must contain its own files`, {
    help: "Copy the run directory with 'cp -rL', which replaces links by files, or remove this one.",
  });
