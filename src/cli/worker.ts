/** `sparkablate worker`: a worker in the foreground, for controllers that come and go. */
import { dirname } from "node:path";
import { Command, Option } from "commander";
import { resolveEnvironment } from "../environment/environment.ts";
import { ERROR_KINDS } from "../errors.ts";
import { requireDirectory } from "../files.ts";
import { defaultSocket } from "../link/found.ts";
import { keysFor } from "../link/keys.ts";
import { pythonCommand } from "../link/python-command.ts";
import { keysOption } from "./common.ts";
import { onInterrupt } from "./signals.ts";

interface WorkerCommandFlags {
  readonly bind?: string;
  readonly keys?: string;
  readonly engine: "local" | "ray";
  readonly address?: string;
  readonly numCpus?: string;
  readonly actors?: string;
}

export function workerCommand(): Command {
  return new Command("worker")
    .option(
      "--bind <address>",
      "ipc:///private/directory/socket or tcp://address:port (default: a socket in $SPARKABLATE_HOME/run)",
    )
    .addOption(keysOption())
    .addOption(
      new Option("--engine <engine>", "measure in this process, or with the actors of a Ray cluster")
        .choices(["local", "ray"])
        .default("local"),
    )
    .option("--address <address>", "ray: host:port or auto (default: start a cluster on this machine alone)")
    .option("--num-cpus <n>", "ray: CPUs for each actor; required if the cluster has no GPU")
    .option("--actors <n>", "ray: largest number of actors (default: as many as fit)")
    .addHelpText(
      "after",
      `
The worker keeps its model loaded between runs. It refuses to start where others could reach it, unless it has
keys and so listens only to controllers that it knows.

Example:
  sparkablate worker --bind ipc:///run/user/1000/sparkablate.sock
  sparkablate run -c configs/smoke_test.yaml --worker ipc:///run/user/1000/sparkablate.sock

With --engine ray there is one actor per GPU, or per --num-cpus CPUs, and the actors measure in parallel:
docs/scale.md.`,
    )
    .action(runWorker);
}

async function runWorker({ bind, keys, engine, ...ray }: WorkerCommandFlags): Promise<void> {
  const address = bind ?? madeDefaultAddress();
  const directory = keysFor(address, "worker", keys);
  // What starts processes is slow to import, and most commands start none.
  const { execa } = await import("execa");
  const { python, env } = pythonCommand(resolveEnvironment());
  const flags = {
    "--bind": address,
    "--keys": directory ?? undefined,
    "--engine": engine,
    "--address": ray.address,
    "--num-cpus": ray.numCpus,
    "--actors": ray.actors,
  };
  const given = Object.entries(flags).flatMap(([flag, value]) => (value === undefined ? [] : [flag, value]));
  const worker = execa(python, ["-m", "sparkablate.server", "--lifeline", "3", ...given], {
    env,
    // fd 3 is the lifeline: whatever ends this process ends the worker.
    stdio: ["inherit", "inherit", "inherit", "pipe"],
    reject: false,
    // Out of the terminal's process group: the signals below decide.
    detached: true,
    cleanup: false,
  });
  let interrupted = false;
  const release = onInterrupt(
    () => {
      interrupted = true;
      worker.kill("SIGTERM");
    },
    () => void worker.kill("SIGKILL"),
  );
  const { exitCode } = await worker;
  release();
  process.exitCode = exitCode ?? ERROR_KINDS[interrupted ? "interrupted" : "worker_died"].exit;
}

function madeDefaultAddress(): string {
  requireDirectory(
    dirname(defaultSocket()),
    0o700,
    "Set SPARKABLATE_HOME to a directory that you may write to, or give --bind.",
  );
  return `ipc://${defaultSocket()}`;
}
