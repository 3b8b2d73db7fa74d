/** Files that belong together: all of them are written, or none. */
import { randomBytes } from "node:crypto";
import {
  accessSync,
  closeSync,
  constants,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { SparkablateError } from "../errors.ts";
import { syncDirectory } from "../files.ts";

/** `bytes`: null where there is nothing to write; a file that is there goes. */
export interface Part {
  readonly path: string;
  readonly bytes: string | Uint8Array | null;
}

/**
 * Whether the files can be made, asked before the work for them begins.
 * @throws SparkablateError usage where one exists (unless `replace`), is no file, or cannot be made.
 */
export function requirePlaces(paths: readonly string[], replace: boolean): void {
  for (const path of paths) {
    try {
      const found = lstatSync(path, { throwIfNoEntry: false });
      if (found !== undefined && !replace) {
        throw new SparkablateError("usage", `${path} exists; pass --force to overwrite it, or another --out`);
      }
      if (found?.isDirectory())
        throw new SparkablateError("usage", `${path} is a directory; choose another --out`);
      let folder = dirname(path);
      while (lstatSync(folder, { throwIfNoEntry: false }) === undefined) folder = dirname(folder);
      accessSync(join(folder, "."), constants.W_OK | constants.X_OK);
    } catch (error) {
      throw unwritable(error, path);
    }
  }
}

/**
 * Writes beside the targets, syncs, renames. The last part is what the others are about: it goes first and comes last,
 * so that a kill leaves it with what was made together with it, or not at all.
 * @throws SparkablateError as requirePlaces; disk_full.
 */
export function writeTogether(parts: readonly Part[], replace: boolean): void {
  const written: { path: string; temporary: string }[] = [];
  const target = parts.at(-1);
  try {
    for (const { path, bytes } of parts) {
      if (bytes === null) continue;
      const temporary = join(dirname(path), `.${basename(path)}.${randomBytes(4).toString("hex")}.tmp`);
      guarded(path, () => {
        mkdirSync(dirname(path), { recursive: true });
        const file = openSync(temporary, "wx");
        written.push({ path, temporary });
        try {
          writeFileSync(file, bytes);
          fsyncSync(file);
        } finally {
          closeSync(file);
        }
      });
    }
    requirePlaces(
      parts.map(({ path }) => path),
      replace,
    );
    if (target !== undefined) guarded(target.path, () => rmSync(target.path, { force: true }));
    for (const { path, temporary } of written) guarded(path, () => renameSync(temporary, path));
    for (const folder of new Set(parts.map(({ path }) => dirname(path))))
      guarded(folder, () => syncDirectory(folder));
  } catch (error) {
    for (const { temporary } of written) rmSync(temporary, { force: true });
    throw error;
  }
}

function guarded(path: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    throw unwritable(error, path);
  }
}

function unwritable(error: unknown, path: string): unknown {
  if (error instanceof SparkablateError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === undefined) return error;
  if (code === "ENOSPC" || code === "EDQUOT")
    return new SparkablateError("disk_full", `no space left for ${path}`, { cause: error });
  return new SparkablateError("usage", `${path} cannot be written: ${message}`, {
    cause: error,
    help: "Choose another --out.",
  });
}
