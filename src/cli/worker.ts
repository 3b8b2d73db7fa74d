/** `sparkablate worker`: a worker in the foreground, for controllers that come and go. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { execa } from "execa";
import { resolveEnvironment, sparkablateHome } from "../environment/environment.ts";
import { pythonCommand } from "../link/spawn.ts";

interface WorkerFlags {
  readonly bind?: string;
}

export function workerCommand(): Command {
  return new Command("worker")
    .description("run a worker in the foreground, from the environment that setup made")
    .option(
      "--bind <address>",
      "ipc:///private/directory/socket or tcp://127.0.0.1:port (default: a socket in $SPARKABLATE_HOME/run)",
    )
    .addHelpText(
      "after",
      `
The worker keeps its model loaded between runs. It listens where others cannot reach it, or refuses to start.

Example:
  sparkablate worker --bind ipc:///run/user/1000/sparkablate.sock
  sparkablate run -c configs/smoke_test.yaml --worker ipc:///run/user/1000/sparkablate.sock`,
    )
    .action(async ({ bind }: WorkerFlags) => {
      const { python, env } = pythonCommand(resolveEnvironment());
      const worker = execa(python, ["-m", "sparkablate.server", "--bind", bind ?? defaultAddress()], {
        env,
        stdio: "inherit",
        reject: false,
        // Out of the terminal's process group: the signals below decide.
        detached: true,
      });
      const stop = (): void => void worker.kill("SIGTERM");
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, stop);
      const { exitCode } = await worker;
      process.exitCode = exitCode ?? 3;
    });
}

function defaultAddress(): string {
  const directory = join(sparkablateHome(), "run");
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  return `ipc://${join(directory, "worker.sock")}`;
}
