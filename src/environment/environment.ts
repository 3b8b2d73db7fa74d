/** Where the Python side is. Set-up writes the record last; everything else only reads it. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
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
  return resolve(process.env.SPARKABLATE_HOME || join(homedir(), ".cache", "sparkablate"));
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
    throw new SparkablateError("environment_missing", `${home} holds no Python environment for this version`);
  }
  const python = venvPython(join(home, found.venv));
  if (!existsSync(python)) {
    throw new SparkablateError(
      "environment_missing",
      `${python} is gone, or the Python it was made from (${found.base_python})`,
    );
  }
  return { python, home };
}

export function venvPython(venv: string): string {
  return join(venv, "bin", "python");
}

export function readRecord(home: string): EnvironmentRecord | undefined {
  const file = recordFile(home);
  if (!existsSync(file)) return undefined;
  const parsed = record.safeParse(parseJson(readFileSync(file, "utf8")));
  return parsed.success ? parsed.data : undefined;
}

/** Atomic: a reader sees the old record or the new one. */
export function writeRecord(home: string, finished: EnvironmentRecord): void {
  const file = recordFile(home);
  writeFileSync(`${file}.new`, `${JSON.stringify(finished, null, 1)}\n`);
  renameSync(`${file}.new`, file);
}

export function constraintsFile(): string {
  return join(packageRoot(), "worker", "constraints.txt");
}

/** One record a set of pins, so that two versions of sparkablate can share a home. */
export function recordFile(home: string): string {
  const pins = createHash("sha256").update(readFileSync(constraintsFile())).digest("hex");
  return join(home, `environment-${pins.slice(0, 12)}.json`);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
