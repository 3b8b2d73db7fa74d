/** The file system as people meet it: making what they ask for, and what its errors mean. */
import { closeSync, fsyncSync, mkdirSync, openSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { SparkablateError } from "./errors.ts";

/** As `mkdir -p`. Node's own tries for ever where a file system that makes no directories says ENOENT: /proc. */
export function makeDirectories(path: string, mode = 0o777): void {
  const missing: string[] = [];
  for (
    let here = resolve(path);
    statSync(here, { throwIfNoEntry: false }) === undefined;
    here = dirname(here)
  )
    missing.push(here);
  if (missing.length === 0) mkdirSync(path, { recursive: true, mode }); // says what is in the way
  for (const directory of missing.reverse()) {
    try {
      mkdirSync(directory, mode);
    } catch (error) {
      // Another process may have made it meanwhile.
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

/** Renames in a directory are on the disk once it is synced. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}

/** As `makeDirectories`. @throws SparkablateError input_missing with `help`; what else the system says as it is. */
export function requireDirectory(path: string, mode: number, help: string): void {
  try {
    makeDirectories(path, mode);
  } catch (cause) {
    const why = WHY_NOT_MADE[(cause as NodeJS.ErrnoException).code ?? ""];
    if (why === undefined) throw cause;
    throw new SparkablateError("input_missing", `${path}: no directory can be made there: ${why}`, {
      cause,
      help,
    });
  }
}

const WHY_NOT_MADE: Readonly<Record<string, string>> = {
  EEXIST: "there is a file of this name",
  ENOTDIR: "a part of the path is a file",
  EACCES: "you may not write there",
  EPERM: "you may not write there",
  EROFS: "the file system is read-only",
  ENOENT: "this file system takes none",
  ENAMETOOLONG: "the name is too long",
  ELOOP: "a symbolic link leads to itself",
};

/** Codes that speak of a path that was given, never of a slip in this program. */
const OF_THE_PATH = new Set(
  "EACCES EPERM ENAMETOOLONG ELOOP ENXIO ENODEV ETXTBSY EBUSY ENOTDIR EISDIR".split(" "),
);

const OF_THE_DISK = "Check the disk that it is on, and run the same command again.";
/** Codes that speak of the machine, and what a person can do about each. */
const OF_THE_MACHINE: Readonly<Record<string, string>> = {
  EIO: OF_THE_DISK,
  ESTALE: OF_THE_DISK,
  EROFS: "Choose a place that may be written to, or mount that disk for writing.",
  EMFILE: "Raise the limit with 'ulimit -n 4096', and run the same command again.",
  ENFILE: "End other programs that hold many files open, and run the same command again.",
  ENOMEM: "Free some memory, and run the same command again.",
};

/** What a system error that nobody foresaw at its place means; undefined for what may be a bug. */
export function machineError(error: unknown): SparkablateError | undefined {
  if (!(error instanceof Error) || !("syscall" in error)) return undefined;
  const { code = "", path, syscall } = error as NodeJS.ErrnoException;
  const options = { cause: error, detail: error.stack };
  if (syscall === "uv_cwd")
    return new SparkablateError("input_missing", "your working directory was removed", {
      ...options,
      help: "Change to a directory that exists.",
    });
  const what = path ?? syscall ?? "";
  if (code === "ENOSPC" || code === "EDQUOT")
    return new SparkablateError("disk_full", `no space left for ${what}`, options);
  const message = `${what} cannot be used: ${error.message}`;
  const help = OF_THE_MACHINE[code];
  if (help !== undefined) return new SparkablateError("storage_failed", message, { ...options, help });
  if (!OF_THE_PATH.has(code)) return undefined;
  return new SparkablateError("input_missing", message, {
    ...options,
    help: "Check the path, and that you may read and write there.",
  });
}
