/** What a failing disk or database means to the person in front of it. */
import Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";

/** The coded error for anything that SQLite or the file system threw; other errors come back unchanged. */
export function storeError(error: unknown, path: string): unknown {
  const code = errorCode(error);
  if (code === undefined) return error;
  if (code === "SQLITE_FULL" || code === "ENOSPC" || code === "EDQUOT") {
    return new SparkablateError("disk_full", `no space left for ${path}`, { cause: error });
  }
  if (code.startsWith("SQLITE_CORRUPT") || code === "SQLITE_NOTADB") {
    return new SparkablateError("store_corrupt", `${path} is not a readable database`, { cause: error });
  }
  // SQLITE_ERROR is wrong SQL, and ours is right for the tables that this version makes.
  if (code === "SQLITE_ERROR" && error instanceof Error) {
    return new SparkablateError(
      "store_corrupt",
      `${path} has other tables than this version: ${error.message}`,
      {
        cause: error,
      },
    );
  }
  // A broken constraint is a bug of ours, not of the disk's.
  if (
    (code.startsWith("SQLITE_") && !code.startsWith("SQLITE_CONSTRAINT")) ||
    code === "EACCES" ||
    code === "EROFS" ||
    code === "ENOTDIR" ||
    code === "EEXIST" ||
    code === "EPERM"
  ) {
    const reason = error instanceof Error ? error.message : code;
    return new SparkablateError("input_missing", `${path} cannot be used: ${reason}`, {
      cause: error,
      help: "Choose an output.dir on a local disk that you may write to.",
    });
  }
  return error;
}

function errorCode(error: unknown): string | undefined {
  if (error instanceof Database.SqliteError) return error.code;
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return undefined;
}
