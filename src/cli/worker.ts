/** `sparkablate worker`: a worker in the foreground, for controllers that come and go. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { execa } from "execa";
import { resolveEnvironment, sparkablateHome } from "../environment/environment.ts";
import { keysFor } from "../link/keys.ts";
import { pythonCommand } from "../link/spawn.ts";
import { keysOption } from "./common.ts";

interface WorkerCommandFlags {
  readonly bind?: string;
  readonly keys?: string;
}

export function workerCommand(): Command {
  return new Command("worker")
    .description("run a worker in the foreground, from the environment that setup made")
    .option(
      "--bind <address>",
      "ipc:///private/directory/socket or tcp://address:port (default: a socket in $SPARKABLATE_HOME/run)",
    )
    .addOption(keysOption())
    .addHelpText(
      "after",
      `
The worker keeps its model loaded between runs. It listens where others cannot reach it, or only to controllers
whose keys it has, or refuses to start.

Example:
  sparkablate worker --bind ipc:///run/user/1000/sparkablate.sock
  sparkablate run -c configs/smoke_test.yaml --worker ipc:///run/user/1000/sparkablate.sock`,
    )
    .action(async ({ bind, keys }: WorkerCommandFlags) => {
      const address = bind ?? defaultAddress();
      const directory = keysFor(address, "worker", keys);
      const { python, env } = pythonCommand(resolveEnvironment());
      const proof = directory === null ? [] : ["--keys", directory];
      const worker = execa(python, ["-m", "sparkablate.server", "--bind", address, ...proof], {
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
