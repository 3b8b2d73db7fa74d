/** `sparkablate setup`: environment and built-in model. Runs again at no cost, and goes on after any interruption. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SparkablateError } from "../errors.ts";
import { requireDirectory } from "../files.ts";
import { type Lock, lockDirectory } from "../store/lock.ts";
import { type Environment, sparkablateHome, venvPython, workerDirectory } from "./environment.ts";
import { runModule } from "./tether.ts";
import { type EnvironmentOptions, letImport, prepareEnvironment, type Say } from "./venv.ts";

export interface SetUp extends Environment {
  readonly torch_version: string;
  /** The built-in model's directory. */
  readonly model: string;
}

const RETRY_MS = 500;

/** What `setup` and `quickstart` do. `say` gets one line a step. */
export async function setUp(options: EnvironmentOptions, say: Say): Promise<SetUp> {
  const home = sparkablateHome();
  requireDirectory(home, 0o777, "Set SPARKABLATE_HOME to a directory that you may write to.");
  const lock = await lockHome(home, say);
  try {
    const environment = await prepareEnvironment(home, options, say);
    const venv = join(home, environment.venv);
    const python = venvPython(venv);
    letImport(venv, environment);
    say(`for Python: ${python}, which can 'import sparkablate'`);
    const model = await prepareBuiltinModel(home, python, say);
    return { python, home, torch_version: environment.torch_version, model };
  } finally {
    lock.release();
  }
}

/** Waits for another set-up of the same home. */
async function lockHome(home: string, say: Say): Promise<Lock> {
  for (let waited = 0; ; waited++) {
    try {
      return lockDirectory(home);
    } catch (error) {
      if (!(error instanceof SparkablateError) || error.code !== "run_locked") throw error;
      if (waited === 0) say(`waiting for another set-up: ${error.message}`);
      await sleep(RETRY_MS);
    }
  }
}

/** Where `sparkablate.builtin` puts it: BUILTIN_MODELS in worker/sparkablate/loading/configuration.py. */
export function builtinModelDirectory(home: string): string {
  return join(home, "models", "smollm2-135m-instruct");
}

async function prepareBuiltinModel(home: string, python: string, say: Say): Promise<string> {
  const directory = builtinModelDirectory(home);
  if (!existsSync(directory)) {
    const env = {
      SPARKABLATE_HOME: home,
      PYTHONPATH: workerDirectory(),
      TQDM_DISABLE: "1",
      HF_HUB_OFFLINE: "1",
    };
    await runModule(python, "sparkablate.builtin", [], {
      env,
      onLine: (line) => {
        if (/^(fetching|converting) /.test(line)) say(`  ${line}`);
      },
    });
  }
  say(`built-in model: ${directory}`);
  return directory;
}
