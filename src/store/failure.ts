/** What a failing disk or database means to the person in front of it. */
import { randomUUID } from "node:crypto";
import { closeSync, openSync, rmSync, statSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import Database from "better-sqlite3";
import { type ErrorCode, SparkablateError } from "../errors.ts";

const FULL = ["SQLITE_FULL", "ENOSPC", "EDQUOT"];

/** Beginnings of codes, the first that fits; SQLite's go on with a part of their own. */
const CODES: readonly (readonly [start: string, code: ErrorCode, help?: string])[] = [
  ["SQLITE_CORRUPT", "store_corrupt"],
  ["SQLITE_NOTADB", "store_corrupt"],
  ["SQLITE_BUSY", "run_locked", "Wait for the other program to finish, or stop it."],
  ["SQLITE_LOCKED", "run_locked", "Wait for the other program to finish, or stop it."],
  ["SQLITE_IOERR", "storage_failed"],
  ["SQLITE_READONLY", "storage_failed"],
  ...[
    "EIO",
    "EROFS",
    "ESTALE",
    "ENOENT",
    "ENODEV",
    "ENXIO",
    "EBUSY",
    "EXDEV",
    "EMFILE",
    "ENFILE",
    "EFBIG",
  ].map((code) => [code, "storage_failed"] as const),
  ...["EACCES", "EPERM", "ENOTDIR", "EEXIST", "EISDIR", "ENOTEMPTY", "ELOOP", "ENAMETOOLONG", "SQLITE_"].map(
    (code) => [code, "input_missing", "Choose a place on a local disk that you may write to."] as const,
  ),
];

/** The coded error for anything that SQLite or the file system threw; other errors come back unchanged. */
export function storeError(error: unknown, path: string): unknown {
  const code = errorCode(error);
  // A broken constraint is a bug of ours, not of the disk's.
  if (code === undefined || code.startsWith("SQLITE_CONSTRAINT")) return error;
  // SQLite has no word for a quota, nor for a full disk where its log's index should grow.
  if (FULL.includes(code) || (code.startsWith("SQLITE_IOERR") && isFull(path)))
    return new SparkablateError("disk_full", `no space left for ${path}`, { cause: error });
  const reason = error instanceof Error ? error.message : code;
  // Wrong SQL, and ours is right for the tables that this version makes.
  if (code === "SQLITE_ERROR") {
    return new SparkablateError("store_corrupt", `${path} does not have this version's tables: ${reason}`, {
      cause: error,
    });
  }
  const [, kind, help] = CODES.find(([start]) => code.startsWith(start)) ?? [];
  if (kind === undefined) return error;
  return new SparkablateError(kind, `${path} ${WORDS[kind] ?? "cannot be used"}: ${reason}`, {
    cause: error,
    help,
  });
}

const WORDS: Partial<Record<ErrorCode, string>> = {
  store_corrupt: "is not a readable database",
  run_locked: "is in use by another program",
};

function errorCode(error: unknown): string | undefined {
  if (error instanceof Database.SqliteError) return error.code;
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return undefined;
}

/** Whether a little more than SQLite asks for at once finds no room where `path` is. */
function isFull(path: string): boolean {
  const directory = statSync(path, { throwIfNoEntry: false })?.isDirectory() ? path : dirname(path);
  const probe = join(directory, `.${randomUUID()}.tmp`);
  try {
    const file = openSync(probe, "wx");
    try {
      writeSync(file, Buffer.alloc(1 << 16));
    } finally {
      closeSync(file);
      rmSync(probe, { force: true });
    }
    return false;
  } catch (error) {
    return FULL.includes(errorCode(error) ?? "");
  }
}
