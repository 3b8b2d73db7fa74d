/** A worker of our own: a detached Python process on a private ipc:// socket that ends with us. */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { type Environment, packageRoot, resolveEnvironment } from "../environment/environment.ts";
import { SparkablateError } from "../errors.ts";

const STDERR_LINES_KEPT = 30;
const GRACE_MS = 5_000;

export interface WorkerProcess {
  readonly address: string;
  readonly pid: number;
  /** Resolves, never rejects, when the process has ended. */
  readonly died: Promise<SparkablateError>;
  /** After `shutdown` was sent: waits, then SIGTERM, then SIGKILL; resolves when the process is gone. */
  stop(): Promise<void>;
  /** SIGKILL, for one that is stuck or unwanted; resolves when the process is gone. */
  kill(): Promise<void>;
}

/** The environment and the arguments with which our Python code runs; also used by `sparkablate worker`. */
export function pythonCommand({ python, home }: Environment): {
  python: string;
  env: Record<string, string>;
} {
  const inherited = process.env.PYTHONPATH;
  const worker = join(packageRoot(), "worker");
  return {
    python,
    env: {
      SPARKABLATE_HOME: home,
      PYTHONPATH: inherited ? `${worker}${delimiter}${inherited}` : worker,
      // A file named torch.py where the user stands must not be imported.
      PYTHONSAFEPATH: "1",
      PYTHONUNBUFFERED: "1",
      TOKENIZERS_PARALLELISM: "false",
    },
  };
}

export function spawnWorker(environment: Environment = resolveEnvironment()): WorkerProcess {
  const directory = mkdtempSync(join(tmpdir(), "sparkablate-"));
  chmodSync(directory, 0o700);
  const address = `ipc://${join(directory, "worker.sock")}`;
  const { python, env } = pythonCommand(environment);
  // fd 3 is the lifeline: whatever ends this process closes it, and the worker ends itself.
  const child = execa(python, ["-m", "sparkablate.server", "--bind", address, "--lifeline", "3"], {
    env,
    detached: true,
    cleanup: false,
    reject: false,
    buffer: false,
    stdio: ["ignore", "ignore", "pipe", "pipe"],
  });
  const { pid } = child;
  if (pid === undefined) {
    throw new SparkablateError("environment_missing", `${python} could not be started`);
  }
  const lastLines = keepLastLines(child.iterable({ from: "stderr" }));
  const died = child.then((result) => {
    rmSync(directory, { recursive: true, force: true });
    const how = result.signal !== undefined ? `by ${result.signal}` : `with exit code ${result.exitCode}`;
    return new SparkablateError("worker_died", `the worker (pid ${pid}) ended ${how}`, {
      detail: lastLines.join("\n") || undefined,
    });
  });
  return {
    address,
    pid,
    died,
    async stop(): Promise<void> {
      for (const signal of ["SIGTERM", "SIGKILL"] as const) {
        const ended = await Promise.race([died, sleep(GRACE_MS, undefined, { ref: false })]);
        if (ended !== undefined) return;
        child.kill(signal);
      }
      await died;
    },
    async kill(): Promise<void> {
      child.kill("SIGKILL");
      await died;
    },
  };
}

function keepLastLines(stderr: AsyncIterable<unknown>): string[] {
  const lines: string[] = [];
  void (async () => {
    for await (const line of stderr) {
      lines.push(String(line));
      if (lines.length > STDERR_LINES_KEPT) lines.shift();
    }
  })();
  return lines;
}
