/** Makes the virtual environment and installs what our Python code needs. Our own package runs from worker/. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse as parseToml } from "smol-toml";
import { z } from "zod";
import { SparkablateError } from "../errors.ts";
import { makeDirectories } from "../files.ts";
import { reportDevice } from "./device.ts";
import {
  constraintsFile,
  type EnvironmentRecord,
  forgetRecord,
  readRecord,
  readVenvRecord,
  venvPython,
  workerDirectory,
  writeRecord,
} from "./environment.ts";
import { findPython, type Python } from "./python.ts";
import { runModule } from "./tether.ts";
import {
  CPU_INDEX,
  chooseBuild,
  describePlan,
  type InstallPlan,
  pipArguments,
  SIZES,
  type TorchBuild,
  type TorchChoice,
} from "./torch.ts";

export interface EnvironmentOptions {
  readonly python?: string | undefined;
  readonly torch?: TorchChoice | undefined;
  readonly indexUrl?: string | undefined;
  readonly systemSitePackages?: boolean | undefined;
  /** Also what this engine needs: Ray is an extra. */
  readonly engine?: "local" | "ray" | undefined;
  /** Also what the tests and `npm run check` need. */
  readonly dev?: boolean | undefined;
}

export type Say = (line: string) => void;

/** Extras of worker/pyproject.toml that a controller's worker needs, and a notebook beside it. */
const EXTRAS = ["server", "datasets", "builtin", "results"];

const INDEX_TIMEOUT_MS = 3_000;

/** Idempotent. The caller holds the lock of the home. Returns the finished environment's record. */
export async function prepareEnvironment(
  home: string,
  options: EnvironmentOptions,
  say: Say,
): Promise<EnvironmentRecord> {
  const extras = [...EXTRAS, ...(options.engine === "ray" ? ["ray"] : []), ...(options.dev ? ["dev"] : [])];
  const requirements = readRequirements(extras);
  const current = readRecord(home);
  if (current !== undefined && !asksForAnother(options))
    return complete(home, current, requirements, options, say);
  const python = await findPython(options.python);
  const build = chooseBuild({ platform: process.platform, nvidia: await nvidiaPresent() }, options.torch);
  const wanted: EnvironmentRecord = {
    venv: venvName(python, build, options.systemSitePackages === true),
    torch_build: build,
    torch_version: "",
    python_version: python.version,
    base_python: python.executable,
    system_site_packages: options.systemSitePackages === true || build === "existing",
    requirements,
  };
  const venv = join(home, wanted.venv);
  const made = readVenvRecord(venv);
  if (made !== undefined && options.indexUrl === undefined)
    return complete(home, made, requirements, options, say);
  say(`Python ${python.version}: ${python.executable}`);
  // Without its record an environment may be half made, and pip cannot tell: it is made anew, from pip's cache.
  rmSync(venv, { recursive: true, force: true });
  await runModule(python.executable, "venv", [
    venv,
    ...(wanted.system_site_packages ? ["--system-site-packages"] : []),
  ]);
  if (build === "existing") shareSitePackages(venv, python);
  return install(home, wanted, requirements, options, say);
}

/** Adds what a finished environment lacks, and makes it the one in use. */
async function complete(
  home: string,
  made: EnvironmentRecord,
  requirements: readonly string[],
  options: EnvironmentOptions,
  say: Say,
): Promise<EnvironmentRecord> {
  const missing = requirements.filter((requirement) => !made.requirements.includes(requirement));
  if (missing.length > 0) {
    say(`adding to the environment: ${missing.join(", ")}`);
    const both = [...made.requirements, ...missing].sort();
    return install(home, { ...made, requirements: both }, missing, options, say);
  }
  writeRecord(home, made);
  sayReady(home, made, say);
  return made;
}

function sayReady(home: string, { venv, python_version, torch_version }: EnvironmentRecord, say: Say): void {
  say(`environment: ${join(home, venv)} (Python ${python_version}, torch ${torch_version})`);
}

function asksForAnother(options: EnvironmentOptions): boolean {
  const { python, torch, indexUrl, systemSitePackages } = options;
  return [python, torch, indexUrl, systemSitePackages].some((option) => option !== undefined);
}

/** Installs what is missing of `wanted`; it has no record meanwhile, and gets it at the end. */
async function install(
  home: string,
  wanted: EnvironmentRecord,
  missing: readonly string[],
  options: EnvironmentOptions,
  say: Say,
): Promise<EnvironmentRecord> {
  const python = venvPython(join(home, wanted.venv));
  const before = wanted.torch_build === "existing" ? await existingVersions(python, wanted.base_python) : [];
  const plan: InstallPlan = {
    build: wanted.torch_build,
    requirements: missing,
    constraints: readFileSync(constraintsFile(), "utf8"),
    constraintsFile: constraintsFile(),
    indexUrl: options.indexUrl,
    cpuIndexReachable:
      wanted.torch_build === "cpu" && options.indexUrl === undefined && (await cpuIndexReachable()),
    keep: before,
  };
  if (wanted.torch_version === "") {
    for (const line of describePlan(plan)) say(line);
    checkSpace(home, SIZES[plan.build].disk_gb);
  }
  forgetRecord(join(home, wanted.venv));
  await runModule(python, "pip", pipArguments(plan), { env: PIP_ENV, onLine: sayPipLine(say) });
  // An installation that cannot be imported is not finished.
  const finished = { ...wanted, torch_version: (await reportDevice(python)).torch };
  if (wanted.torch_build === "existing") {
    const after = await existingVersions(python, wanted.base_python);
    if (after.join() !== before.join()) {
      throw new SparkablateError(
        "environment_missing",
        `pip replaced ${before.join(", ")} by ${after.join(", ")}`,
      );
    }
  }
  if (plan.build === "cpu" && !/\+cpu$/.test(finished.torch_version) && process.platform === "linux") {
    say(
      `notice: pip's indexes gave torch ${finished.torch_version}, a build for CUDA; it runs on the CPU too`,
    );
  }
  writeRecord(home, finished);
  say(
    `environment: ${join(home, finished.venv)} (Python ${finished.python_version}, torch ${finished.torch_version})`,
  );
  return finished;
}

const PIP_ENV = { PIP_DISABLE_PIP_VERSION_CHECK: "1", PYTHONUNBUFFERED: "1" };

/** Of pip's hundred lines, those that say how far it is. */
function sayPipLine(say: Say): Say {
  return (line) => {
    const file = /^\s*(?:Downloading|Using cached) (\S+?)(?:-(?:py|cp)\S*)? \((\d+(?:\.\d+)? [MG]B)\)/.exec(
      line,
    );
    if (file !== null) say(`  fetching ${file[1]?.split("/").at(-1)} (${file[2]})`);
    else if (line.startsWith("Installing collected packages")) {
      say(`  installing packages: ${line.split(",").length}`);
    } else if (/^(ERROR|WARNING: Retrying)/.test(line)) say(`  pip: ${line}`);
  };
}

const pyproject = z.object({
  project: z.object({
    dependencies: z.array(z.string()),
    "optional-dependencies": z.record(z.string(), z.array(z.string())),
  }),
});

/** The dependencies of worker/pyproject.toml with the named extras, sorted. */
export function readRequirements(extras: readonly string[]): string[] {
  const { project } = pyproject.parse(
    parseToml(readFileSync(join(workerDirectory(), "pyproject.toml"), "utf8")),
  );
  const chosen = extras.flatMap((extra) => {
    const listed = project["optional-dependencies"][extra];
    if (listed === undefined)
      throw new SparkablateError("internal", `worker/pyproject.toml has no extra "${extra}"`);
    return listed;
  });
  return [...new Set([...project.dependencies, ...chosen])].sort();
}

/** venv-<hash of the pins, the Python version and the torch choice>. */
function venvName(python: Python, build: TorchBuild, systemSitePackages: boolean): string {
  const hash = createHash("sha256").update(readFileSync(constraintsFile()));
  hash.update(JSON.stringify([python.version, build, systemSitePackages]));
  // A torch that is there belongs to one interpreter.
  if (build === "existing") hash.update(python.executable);
  return `venv-${hash.digest("hex").slice(0, 12)}`;
}

/**
 * Lets scripts and notebooks of the environment import this package's Python code: that of the copy which set it up last.
 * Python passes over a path that is no longer there, and a `pip install` of the package comes before it.
 */
export function letImport(venv: string, { python_version }: EnvironmentRecord): void {
  const file = join(sitePackages(venv, python_version), "sparkablate.pth");
  const line = `${workerDirectory()}\n`;
  if (readIfThere(file) !== line) writeFileSync(file, line);
}

function readIfThere(file: string): string | undefined {
  return existsSync(file) ? readFileSync(file, "utf8") : undefined;
}

function sitePackages(venv: string, version: string): string {
  const [major, minor] = version.split(".");
  return join(venv, "lib", `python${major}.${minor}`, "site-packages");
}

/** Also for an interpreter that itself lives in a virtual environment, which --system-site-packages passes over. */
function shareSitePackages(venv: string, python: Python): void {
  const own = sitePackages(venv, python.version);
  makeDirectories(own);
  writeFileSync(join(own, "existing-torch.pth"), `${python.sitePackages}\n`);
}

/** torch and numpy as name==version, from the metadata that pip goes by. */
async function existingVersions(python: string, base: string): Promise<string[]> {
  const code = `
from importlib.metadata import PackageNotFoundError, version
for name in ("torch", "numpy"):
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass
`;
  const { execa } = await import("execa");
  const { stdout } = await execa(python, ["-c", code], { stdin: "ignore" });
  const versions = stdout.split("\n").filter((line) => line !== "");
  if (!versions.some((line) => line.startsWith("torch=="))) {
    throw new SparkablateError("environment_missing", `--torch existing: ${base} has no torch`, {
      help: "Name the Python that has it with --python, or choose --torch cpu or cuda.",
    });
  }
  return versions;
}

/** True with a kernel driver, and in WSL 2, which has none of its own but brings nvidia-smi. */
export async function nvidiaPresent(): Promise<boolean> {
  if (existsSync("/proc/driver/nvidia/version")) return true;
  const { execa } = await import("execa");
  const listed = await execa("nvidia-smi", ["-L"], { reject: false, stdin: "ignore", timeout: 10_000 });
  return !listed.failed && listed.stdout.includes("GPU");
}

async function cpuIndexReachable(): Promise<boolean> {
  try {
    const answer = await fetch(`${CPU_INDEX}/torch/`, {
      method: "HEAD",
      signal: AbortSignal.timeout(INDEX_TIMEOUT_MS),
    });
    return answer.ok;
  } catch {
    return false;
  }
}

function checkSpace(home: string, needed_gb: number): void {
  const { bavail, bsize } = statfsSync(home);
  const free_gb = (bavail * bsize) / 1e9;
  if (free_gb < needed_gb) {
    throw new SparkablateError(
      "disk_full",
      `${home} has ${free_gb.toFixed(1)} GB free; about ${needed_gb} GB are needed`,
      {
        help: "Free some space, or set SPARKABLATE_HOME to a directory on a larger disk.",
      },
    );
  }
}
