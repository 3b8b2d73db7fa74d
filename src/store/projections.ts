/** Files derived from the database: whole or absent, never half written; rebuilt from it at any time. */
import { closeSync, fsyncSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Row, rowRecord } from "../rows.ts";
import { storeError } from "./failure.ts";

/** Writes beside the target, syncs, renames, syncs the directory. */
export function writeAtomically(path: string, chunks: Iterable<string | Uint8Array>): void {
  const temporary = `${path}.tmp`;
  try {
    mkdirSync(dirname(path), { recursive: true });
    const file = openSync(temporary, "w");
    try {
      for (const chunk of chunks) writeAll(file, typeof chunk === "string" ? Buffer.from(chunk) : chunk);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(temporary, path);
    const directory = openSync(dirname(path), "r");
    try {
      fsyncSync(directory);
    } finally {
      closeSync(directory);
    }
  } catch (error) {
    rmSync(temporary, { force: true });
    throw storeError(error, path);
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}

export function writeRows(directory: string, rows: readonly Row[]): void {
  writeAtomically(
    join(directory, "results.jsonl"),
    rows.values().map((row) => `${JSON.stringify(rowRecord(row))}\n`),
  );
}

export function writeSummary(directory: string, summary: Readonly<Record<string, unknown>>): void {
  writeAtomically(join(directory, "summary.json"), [`${JSON.stringify(summary, null, 2)}\n`]);
}

export function writeConfig(directory: string, yaml: string): void {
  writeAtomically(join(directory, "config.yaml"), [yaml]);
}
