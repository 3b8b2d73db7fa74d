/** Where the Python side is. Set-up writes the record last; everything else only reads it. */

import { existsSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";

export interface Environment {
  /** The environment's interpreter, an absolute path. */
  readonly python: string;
  /** $SPARKABLATE_HOME, absolute. */
  readonly home: string;
}

const record = z.strictObject({
  /** Directory under the home. */
  venv: z.string(),
  torch_build: z.enum(["cpu", "cuda", "macos", "existing"]),
  torch_version: z.string(),
  python_version: z.string(),
  /** The interpreter that the environment was made from. */
  base_python: z.string(),
  system_site_packages: z.boolean(),
  /** What pip was asked for; pins stand in constraints.txt. */
  requirements: z.array(z.string()),
});
/** One finished environment. */
export type EnvironmentRecord = z.infer<typeof record>;

/** $SPARKABLATE_HOME, or ~/.cache/sparkablate. */
export function sparkablateHome(): string {
  return resolve(process.env.SPARKABLATE_HOME || join(userHome(), ".cache", "sparkablate"));
}

function userHome(): string {
  try {
    return homedir();
  } catch (cause) {
    throw new SparkablateError("usage", "HOME is not set, and this user has no home directory", {
      cause,
      help: "Set SPARKABLATE_HOME to a directory of yours.",
    });
  }
}

/** The checkout or installed package that holds dist/, worker/ and configs/. */
export function packageRoot(): string {
  // src/environment/ or dist/environment/: two levels down either way.
  return fileURLToPath(new URL("../../", import.meta.url)).replace(/\/$/, "");
}

/** The environment that `sparkablate setup` made; throws `environment_missing`. No process is started. */
export function resolveEnvironment(home: string = sparkablateHome()): Environment {
  const found = readRecord(home);
  if (found === undefined) {
    throw new SparkablateError(
      "environment_missing",
      `${home} holds no complete Python environment for this version`,
    );
  }
  return { python: venvPython(join(home, found.venv)), home };
}

export function venvPython(venv: string): string {
  return join(venv, "bin", "python");
}

/** The record of the environment in use; undefined where there is none, or where it is half made. */
export function readRecord(home: string): EnvironmentRecord | undefined {
  const named = readIfFile(pointerFile(home));
  return named === undefined ? undefined : readVenvRecord(join(home, named.trim()));
}

/** The record of one environment; only a finished one has it. */
export function readVenvRecord(venv: string): EnvironmentRecord | undefined {
  const written = readIfFile(venvRecordFile(venv));
  if (written === undefined || !existsSync(venvPython(venv))) return undefined;
  // A record that is no record was never finished; setup makes it anew.
  return z.preprocess(parsed, record).safeParse(written).data;
}

const readIfFile = (file: string): string | undefined =>
  statSync(file, { throwIfNoEntry: false })?.isFile() ? readFileSync(file, "utf8") : undefined;

function parsed(text: unknown): unknown {
  try {
    return JSON.parse(String(text));
  } catch {
    return undefined;
  }
}

/** Before an environment is changed: until it is finished again, it counts as half made. */
export function forgetRecord(venv: string): void {
  rmSync(venvRecordFile(venv), { force: true });
}

/** The environment is finished, and from now on the one in use. */
export function writeRecord(home: string, finished: EnvironmentRecord): void {
  replaceFile(venvRecordFile(join(home, finished.venv)), `${JSON.stringify(finished, null, 1)}\n`);
  replaceFile(pointerFile(home), `${finished.venv}\n`);
}

/** What PYTHONPATH must hold: our Python code is not installed. */
export function workerDirectory(): string {
  return join(packageRoot(), "worker");
}

export function constraintsFile(): string {
  return join(workerDirectory(), "constraints.txt");
}

/** Names the environment in use. One a set of pins, so that two versions of sparkablate can share a home. */
function pointerFile(home: string): string {
  const pins = sha256(readFileSync(constraintsFile()));
  return join(home, `environment-${pins.slice(0, 12)}`);
}

function venvRecordFile(venv: string): string {
  return join(venv, "sparkablate.json");
}

/** A reader sees the old text or the new one. */
function replaceFile(file: string, text: string): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}
