/** Files derived from the database: whole or absent, never half written; rebuilt from it at any time. */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  constants,
  fsyncSync,
  lstatSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { makeDirectories, syncDirectory } from "../files.ts";
import { rowRecord } from "../results/layout.ts";
import type { Row } from "../results/row.ts";
import { storeError } from "./failure.ts";

/** Many small texts are written together. */
const PIECE_BYTES = 1 << 16;

/** A name that nobody foresees, made anew: never a file that is there, nor what a link points to. */
const MADE_ANEW = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
/** Of a run's own files; 0.1.0 gave no process. What a report writes, it writes without the run's lock. */
const TEMPORARY =
  /^(?:config\.yaml|results\.jsonl|summary\.json|report\.html)(?:\.(\d+)\.[0-9a-f]{16})?\.tmp$/;
const PLOT = /^[\w-]+\.png(?:\.(\d+)\.[0-9a-f]{16})?\.tmp$/;

/** Writes beside the target, syncs, renames, syncs the directory. A link at the target is replaced, not followed. */
export function writeAtomically(path: string, chunks: Iterable<string | Uint8Array>, mode = 0o666): void {
  const temporary = `${path}.${process.pid}.${randomBytes(8).toString("hex")}.tmp`;
  try {
    makeDirectories(dirname(path));
    const file = openSync(temporary, MADE_ANEW, mode);
    try {
      for (const piece of pieces(chunks)) writeAll(file, piece);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
    syncDirectory(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw storeError(error, path);
  }
}

/** What killed writers left in a run directory. */
export function sweepTemporaries(directory: string): void {
  sweep(directory, TEMPORARY);
  const plots = join(directory, "plots");
  if (lstatSync(plots, { throwIfNoEntry: false })?.isDirectory()) sweep(plots, PLOT);
}

function sweep(directory: string, pattern: RegExp): void {
  for (const name of readdirSync(directory)) {
    const found = pattern.exec(name);
    if (found && !isRunning(Number(found[1]))) rmSync(join(directory, name), { force: true });
  }
}

function isRunning(pid: number): boolean {
  if (!(pid > 0)) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function* pieces(chunks: Iterable<string | Uint8Array>): Generator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let length = 0;
  for (const chunk of chunks) {
    const bytes = typeof chunk === "string" ? Buffer.from(chunk) : chunk;
    length += bytes.length;
    waiting.push(bytes);
    if (length < PIECE_BYTES) continue;
    // A long text is not copied once more.
    yield waiting.length === 1 ? bytes : Buffer.concat(waiting);
    waiting = [];
    length = 0;
  }
  if (length > 0) yield Buffer.concat(waiting);
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}

/** Takes the rows one by one, and keeps none. */
export function writeRows(directory: string, rows: IteratorObject<Row>): void {
  writeAtomically(
    join(directory, "results.jsonl"),
    rows.map((row) => `${JSON.stringify(rowRecord(row))}\n`),
  );
}

export function writeSummary(directory: string, summary: Readonly<Record<string, unknown>>): void {
  writeAtomically(join(directory, "summary.json"), [`${JSON.stringify(summary, null, 2)}\n`]);
}

export function writeConfig(directory: string, yaml: string): void {
  writeAtomically(join(directory, "config.yaml"), [yaml]);
}
