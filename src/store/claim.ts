/** Whose a directory is: a run begins in one that is empty, goes on in its own, and takes nobody else's. */
import { existsSync, readdirSync, readFileSync, realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { type RunConfig, resolvedYaml } from "../config/load.ts";
import { isRun } from "../config/paths.ts";
import { SparkablateError } from "../errors.ts";
import { storeError } from "./failure.ts";
import { fileId } from "./file-id.ts";
import { RunStore } from "./sqlite.ts";

/** What file systems, desktops and version control put into directories by themselves. */
const NOBODYS =
  /^(\.DS_Store|\.localized|\.directory|\.gitkeep|\.keep|\.gitignore|\.snapshot|Thumbs\.db|desktop\.ini|lost\+found|\.nfs[0-9a-f]+|\.fuse_hidden[0-9a-f]+)$/;
/** Of a run that was stopped before it made its database. */
const BEGUN = /^(run\.lock|run\.lock\.owner|results\.sqlite-(wal|shm))$/;
/** What a run writes by name. */
const WRITTEN = ["config.yaml", "results.jsonl", "summary.json", "report.html", "results.sqlite"];
const SHOWN = 5;

/** @throws SparkablateError not_ours, listing what is there, where no run may begin. */
export function requireOurs(directory: string): void {
  if (isRun(directory)) return;
  const strangers = entriesOf(directory).filter((name) => !NOBODYS.test(name) && !BEGUN.test(name));
  if (strangers.length === 0) return;
  const shown = strangers.slice(0, SHOWN).join(", ");
  const more = strangers.length > SHOWN ? ` and ${strangers.length - SHOWN} more` : "";
  const what = isCheckpoint(strangers) ? "a model checkpoint: " : "";
  throw new SparkablateError(
    "not_ours",
    `${directory} is neither empty nor a run directory; it holds ${what}${shown}${more}`,
  );
}

const isCheckpoint = (names: readonly string[]): boolean =>
  names.includes("config.json") && names.some((name) => /\.(safetensors|bin|gguf)$/.test(name));

function entriesOf(directory: string): string[] {
  try {
    return readdirSync(directory).sort();
  } catch (error) {
    throw storeError(error, directory);
  }
}

/**
 * Throws `not_ours` where the run would write over the file that its config was read from. What would be written
 * again as it stands is in nobody's way: a run's own config.yaml resumes it.
 * @param fresh what is there is moved aside, and so kept.
 */
export function requireConfigKept(file: string, config: RunConfig, fresh: boolean): void {
  const { dir } = config.output;
  const name = WRITTEN.find((written) => isSameFile(resolve(file), join(dir, written)));
  if (name === undefined || (fresh && isRun(dir))) return;
  if (name === "config.yaml" && readFileSync(file, "utf8") === toBeWritten(config)) return;
  throw new SparkablateError("not_ours", `${file} would be overwritten by the run's own ${name}`, {
    help: "Keep the config outside of output.dir, or choose another output.dir.",
  });
}

function toBeWritten(config: RunConfig): string {
  const { dir } = config.output;
  const stored = isRun(dir) ? RunStore.reading(dir, (store) => store.run()) : undefined;
  return stored?.facts.config ?? resolvedYaml(config);
}

function isSameFile(left: string, right: string): boolean {
  if (!existsSync(left) || !existsSync(dirname(right))) return false;
  return fileId(left) === fileId(right) || placeOf(left) === placeOf(right);
}

/** The path without links, but for its own. */
const placeOf = (path: string): string => join(realpathSync(dirname(path)), basename(path));
