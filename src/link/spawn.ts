/** A worker of our own: a detached Python process on a private ipc:// socket that ends with us. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { type Environment, resolveEnvironment } from "../environment/environment.ts";
import { SparkablateError } from "../errors.ts";
import { MAX_SOCKET_PATH_BYTES } from "./address.ts";
import { pythonCommand } from "./python-command.ts";

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

export function spawnWorker(environment: Environment = resolveEnvironment()): WorkerProcess {
  const directory = privateDirectory();
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

/** Names as worker/sparkablate/server/place.py knows them: one that was killed is cleared away by a later one. */
const PREFIX = "sparkablate-";
/** What follows the prefix, with the socket's own name. */
const REST = "XXXXXX/worker.sock";

/**
 * A new directory that only this user may enter (mkdtemp's mode), for the socket: where temporary files go, or, where
 * that is too long for a socket's path or cannot be written, elsewhere.
 */
function privateDirectory(): string {
  const refusals: string[] = [];
  for (const root of new Set([tmpdir(), process.env.XDG_RUNTIME_DIR || "/tmp", "/tmp"])) {
    const start = join(resolve(root), PREFIX);
    if (Buffer.byteLength(start + REST) > MAX_SOCKET_PATH_BYTES) {
      refusals.push(`${root} is longer than a socket's path may be`);
      continue;
    }
    try {
      return mkdtempSync(start);
    } catch (error) {
      refusals.push(`${root} cannot be written (${(error as NodeJS.ErrnoException).code})`);
    }
  }
  throw new SparkablateError(
    "environment_missing",
    `there is no directory for the worker's socket: ${refusals.join("; ")}`,
    {
      help: "Set TMPDIR to a directory of yours that exists, with space on its disk and a path of at most 80 bytes.",
    },
  );
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
