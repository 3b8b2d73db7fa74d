/** How fast models were here: kept when one is loaded, read by `run --dry-run`. */
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { sha256 } from "../digest.ts";
import { requireDirectory } from "../files.ts";
import { sparkablateHome } from "./environment.ts";

/** What decides a rate, as a config asks for it. */
export interface RateKey {
  /** Text of config.json. */
  readonly configuration: string;
  readonly device: string;
  readonly dtype: string;
  readonly threads: number | null;
}

/** Seconds a token of one unedited pass. */
export interface Rate {
  readonly stack_seconds: number;
  readonly head_seconds: number;
  /** Whether conditions share the layers below their edit. */
  readonly walks: boolean;
  /** Where it was measured, in words. */
  readonly place: string;
}

/** The oldest make room for new ones. */
const KEPT = 200;

const path = (): string => join(sparkablateHome(), "rates.json");
const digest = ({ configuration, device, dtype, threads }: RateKey): string =>
  sha256(JSON.stringify([configuration, device, dtype, threads]));

export function knownRate(key: RateKey): Rate | null {
  return read()[digest(key)] ?? null;
}

/** A later rate of the same key takes the earlier one's place. */
export function keepRate(key: RateKey, rate: Rate): void {
  const { [digest(key)]: _before, ...others } = read();
  const kept = Object.fromEntries([...Object.entries(others).slice(1 - KEPT), [digest(key), rate]]);
  requireDirectory(sparkablateHome(), 0o777, "Set SPARKABLATE_HOME to a directory that you may write to.");
  const temporary = `${path()}.${process.pid}`;
  writeFileSync(temporary, `${JSON.stringify(kept, null, 1)}\n`);
  renameSync(temporary, path());
}

/** What is no table of rates is none: it is written anew. */
function read(): Record<string, Rate> {
  let text: string;
  try {
    text = readFileSync(path(), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw error;
  }
  try {
    return JSON.parse(text) as Record<string, Rate>;
  } catch {
    return {};
  }
}
