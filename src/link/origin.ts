/** What a worker of our own would be started from: as worker/sparkablate/server/origin.py tells it of itself. */
import { readdirSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { sha256 } from "../digest.ts";
import { type Environment, readRecord, workerDirectory } from "../environment/environment.ts";
import { DECIDING_VARIABLES } from "../protocol/catalog.ts";
import type { Origin, Result } from "../protocol/messages.ts";
import { pythonCommand } from "./python-command.ts";

const DECIDING = new RegExp(DECIDING_VARIABLES);

/**
 * In what a worker that was found differs from one that would be started here, in words; null: in nothing.
 * @param threads of the model's config; null: torch's default. undefined: not known yet.
 */
export function differences(
  { origin, versions, mounts }: Result<"hello">,
  environment: Environment,
  threads: number | null | undefined,
): string | null {
  if (origin === null) return "it is no single process";
  const { python, env } = pythonCommand(environment);
  const here = deciding({ ...process.env, ...env });
  const record = readRecord(environment.home);
  const names = [...new Set([...Object.keys(origin.environment), ...Object.keys(here)])].sort();
  const variables = names.filter((name) => origin.environment[name] !== here[name]);
  const found: readonly (readonly [boolean, string])[] = [
    [mounts.length > 0 || origin.host !== hostname(), `it runs on ${origin.host}`],
    [origin.python !== python, `its Python is ${origin.python}, not ${python}`],
    [versions.torch !== record?.torch_version, `its torch is ${versions.torch}`],
    [origin.code_sha256 !== codeSha256(), "its code is not the installed package's"],
    [origin.cpus !== allowedCpus(), `it may run on the CPUs ${origin.cpus}`],
    [variables.length > 0, `${variables.join(", ")} differ${variables.length === 1 ? "s" : ""} there`],
    [origin.threads_set && typeof threads !== "number", "model.threads was set there before"],
  ];
  const words = found.flatMap(([differs, what]) => (differs ? [what] : []));
  return words.length === 0 ? null : words.join("; ");
}

function deciding(environment: NodeJS.ProcessEnv): Origin["environment"] {
  const entries = Object.entries(environment).filter(([name]) => DECIDING.test(name));
  return Object.fromEntries(entries.map(([name, value]) => [name, sha256(value ?? "")]));
}

/** Of every file of the Python package and its path in it. */
function codeSha256(): string {
  const root = join(workerDirectory(), "sparkablate");
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !path.split("/").includes("__pycache__"))
    .map((path) => path.slice(root.length + 1))
    .sort();
  return sha256(files.map((name) => `${name} ${sha256(readFileSync(join(root, name)))}`).join("\n"));
}

function allowedCpus(): string | null {
  try {
    return /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync("/proc/self/status", "latin1"))?.[1] ?? null;
  } catch {
    return null; // no Linux: the worker has none either
  }
}
