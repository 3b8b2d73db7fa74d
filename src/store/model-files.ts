/** Whether the files that a run's model was loaded from still hold what they held; no Python is needed. */
import { createHash } from "node:crypto";
import { createReadStream, type Dirent, readdirSync, readFileSync, realpathSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { sha256 } from "../digest.ts";
import type { ModelConfig, ModelFiles } from "../protocol/messages.ts";
import { requireSameRun } from "./fingerprint.ts";

/** A stamp that is younger may outlive one more change: file systems keep time in steps of up to 2 s. */
const SETTLED_MS = 2_000;

export interface Look {
  /** unsure: what lies there is not what lay there, and which of it is read only the worker knows. */
  readonly found: "same" | "out of reach" | "unsure";
  /** With the stamps of now, where they could be taken. */
  readonly files: ModelFiles;
}

/** The part of a run's identity for each file; of a run without them, none. */
export const filePartsOf = (model: ModelFiles | undefined): Record<string, string> =>
  Object.fromEntries((model?.files ?? []).map(({ name, sha256 }) => [`file ${name}`, sha256]));

/**
 * Looks at every file: by its stamp, and by its content where that differs.
 * @param verify by its content in any case.
 * @throws SparkablateError other_run, naming the files that hold something else.
 */
export async function lookAtModel(
  stored: ModelFiles,
  directory: string,
  verify: boolean,
  run: string,
  signal: AbortSignal | undefined,
): Promise<Look> {
  const now: ModelFiles["files"][number][] = [];
  const files: ModelFiles["files"][number][] = [];
  let missing = false;
  for (const file of stored.files) {
    const path = resolve(directory, file.name);
    const seen = stampOf(path);
    if (seen === null) missing = true;
    const known = seen !== null && seen.stamp === file.stamp && !verify;
    const sha256 = seen === null || known ? file.sha256 : await digestOf(path, signal);
    now.push({ ...file, sha256 });
    files.push(seen?.settled ? { ...file, stamp: seen.stamp } : file);
  }
  requireSameRun(run, filePartsOf(stored), filePartsOf({ ...stored, files: now }));
  if (missing || files.length === 0) return { found: "out of reach", files: stored };
  const entries_sha256 = entriesSha256(directory);
  const found = entries_sha256 === stored.entries_sha256 ? "same" : "unsure";
  return { found, files: { directory, entries_sha256: stored.entries_sha256, files } };
}

/** Where the model lies that the config names; null where only the worker can tell. */
export function directoryNow(
  { name, revision }: Pick<ModelConfig, "name" | "revision">,
  stored: ModelFiles,
): string | null {
  if (name.startsWith("/")) return realpathSync(name);
  if (name.startsWith("builtin:")) return stored.directory;
  // Hugging Face's cache: models--ORGANISATION--NAME/snapshots/COMMIT, and the commit of each branch in refs.
  const snapshots = dirname(stored.directory);
  const repository = dirname(snapshots);
  if (basename(repository) !== `models--${name.replaceAll("/", "--")}`) return null;
  if (basename(snapshots) !== "snapshots") return null;
  const commit = commitOf(join(repository, "refs", revision ?? "main"));
  return commit === null || commit === basename(stored.directory) ? stored.directory : null;
}

function commitOf(reference: string): string | null {
  try {
    return readFileSync(reference, "utf8").trim();
  } catch {
    return null; // the revision is a commit, or the cache is gone
  }
}

/** null where it is out of reach. As `_wired` in worker/sparkablate/loading/model_files.py writes it. */
function stampOf(path: string): { stamp: string; settled: boolean } | null {
  try {
    const { size, mtimeNs, ctimeNs, ctimeMs, ino } = statSync(path, { bigint: true });
    const stamp = `${size} ${mtimeNs} ${ctimeNs} ${BigInt.asUintN(64, ino)}`;
    return { stamp, settled: Date.now() - Number(ctimeMs) > SETTLED_MS };
  } catch {
    return null;
  }
}

async function digestOf(path: string, signal: AbortSignal | undefined): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { signal, highWaterMark: 1 << 22 })) hash.update(chunk);
  return hash.digest("hex");
}

/** As `entries_sha256` in worker/sparkablate/loading/model_files.py. */
function entriesSha256(directory: string): string {
  const names: Buffer[] = [];
  for (const entry of readdirSync(directory, { encoding: "buffer", withFileTypes: true })) {
    names.push(entry.name);
    if (entry.name[0] === DOT || !isDirectory(directory, entry)) continue;
    for (const inside of readdirSync(pathOf(directory, entry), { encoding: "buffer" })) {
      if (inside.subarray(-JINJA.length).equals(JINJA))
        names.push(Buffer.concat([entry.name, SLASH, inside]));
    }
  }
  names.sort(Buffer.compare);
  return sha256(Buffer.concat(names.flatMap((name, at) => (at === 0 ? [name] : [NUL, name]))));
}

const DOT = ".".charCodeAt(0);
const SLASH = Buffer.from("/");
const NUL = Buffer.from([0]);
const JINJA = Buffer.from(".jinja");

const pathOf = (directory: string, { name }: Dirent<Buffer>): Buffer =>
  Buffer.concat([Buffer.from(directory), SLASH, name]);

const isDirectory = (directory: string, entry: Dirent<Buffer>): boolean =>
  entry.isDirectory() ||
  (entry.isSymbolicLink() &&
    (statSync(pathOf(directory, entry), { throwIfNoEntry: false })?.isDirectory() ?? false));
