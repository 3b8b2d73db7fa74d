/** The worker in a container: the package's own compose file, with the directories that this user shares. */
import { chownSync, existsSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { delimiter, join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot, sparkablateHome } from "../environment/environment.ts";
import { nvidiaPresent } from "../environment/venv.ts";
import { SparkablateError } from "../errors.ts";
import { requireDirectory } from "../files.ts";
import { MAX_SOCKET_PATH_BYTES, unreachable } from "./address.ts";
import { keysDirectory, readControllerKeys } from "./keys.ts";

/** Its interpreter imports torch first; on a cold disk that takes its time. */
const LISTEN_DEADLINE_MS = 180_000;
const POLL_MS = 500;
/** docker-compose 1.29 is Python: 40 s were seen on a busy machine. */
const ANSWER_DEADLINE_MS = 120_000;
const LOG_LINES = 30;
const DEFAULT_PORT = "5757";

export type Transport = "ipc" | "tcp";
/** Docker Desktop shares files with its machine, but no sockets. */
const DEFAULT_TRANSPORT: Transport = process.platform === "linux" ? "ipc" : "tcp";
const SERVICES: Readonly<Record<Transport, string>> = { ipc: "worker", tcp: "worker-tcp" };

export interface ContainerOptions {
  readonly transport?: Transport | undefined;
  /** Directory of the keys, for tcp. */
  readonly keys?: string | undefined;
  /** Told what the engine says, a line at a time. */
  readonly say: (line: string) => void;
  /** Aborting ends the engine's command, and the wait for the worker. */
  readonly signal?: AbortSignal | undefined;
}

/** What compose.yaml is given: absolute paths, so that they mean the same here and there. */
interface Shared extends Readonly<Record<string, string>> {
  readonly SPARKABLATE_RUN: string;
  readonly SPARKABLATE_MODELS: string;
  readonly SPARKABLATE_HOME: string;
  readonly HF_HOME: string;
  readonly SPARKABLATE_KEYS: string;
  readonly SPARKABLATE_PORT: string;
}

/** A checkout shares its own directories, as `docker compose up worker` in it does; an installed package the home's. */
function shared(keys?: string): Shared {
  const { SPARKABLATE_RUN, SPARKABLATE_MODELS, HF_HOME, SPARKABLATE_PORT } = process.env;
  const home = sparkablateHome();
  const checkout = existsSync(join(packageRoot(), ".git"));
  const [run, models] = checkout
    ? [join(packageRoot(), ".sparkablate", "run"), join(packageRoot(), "models")]
    : [join(home, "run", "container"), join(home, "shared")];
  return {
    SPARKABLATE_RUN: resolve(SPARKABLATE_RUN || run),
    SPARKABLATE_MODELS: resolve(SPARKABLATE_MODELS || models),
    SPARKABLATE_HOME: home,
    HF_HOME: resolve(HF_HOME || join(homedir(), ".cache", "huggingface")),
    SPARKABLATE_KEYS: keysDirectory(keys),
    SPARKABLATE_PORT: SPARKABLATE_PORT || DEFAULT_PORT,
  };
}

/** Where the compose worker listens, and with which keys; whether it does is another question. */
export function containerAddress({ transport = DEFAULT_TRANSPORT, keys }: Partial<ContainerOptions>): string {
  const { SPARKABLATE_RUN, SPARKABLATE_PORT } = shared(keys);
  if (transport === "tcp") return `tcp://127.0.0.1:${SPARKABLATE_PORT}`;
  const socket = join(SPARKABLATE_RUN, "worker.sock");
  if (Buffer.byteLength(socket) > MAX_SOCKET_PATH_BYTES) {
    throw new SparkablateError("usage", `${socket} is longer than a socket's path may be`, {
      help: "Set SPARKABLATE_RUN to a directory with a shorter path.",
    });
  }
  return `ipc://${socket}`;
}

/** For `--worker docker`: the service is started unless it listens already. */
export async function containerWorker(options: ContainerOptions): Promise<string> {
  const address = containerAddress(options);
  return (await unreachable(address)) === null ? address : await containerUp(options);
}

/**
 * Makes the shared directories, builds the image where something changed, starts the service and waits for it.
 * @throws SparkablateError environment_missing: no engine, or what it or the worker said; usage: the run directory is root's.
 */
export async function containerUp(options: ContainerOptions): Promise<string> {
  const { transport = DEFAULT_TRANSPORT, keys, say, signal } = options;
  const address = containerAddress(options);
  const places = shared(keys);
  if (transport === "tcp") readControllerKeys(places.SPARKABLATE_KEYS);
  const compose = await findCompose(places, signal);
  makeShared(places);
  const service = SERVICES[transport];
  say(`starting the compose service ${service}; its image is built the first time, which takes minutes`);
  await compose(["up", "-d", "--build", service], say);
  await untilListening(address, service, compose, signal);
  return address;
}

export async function containerDown({ say, signal }: ContainerOptions): Promise<void> {
  await (await findCompose(shared(), signal))(["--profile", "tcp", "down"], say);
}

/** The directories that the container shares with this machine, for people. */
export const sharedDirectories = (): readonly string[] => {
  const { SPARKABLATE_MODELS, SPARKABLATE_HOME, HF_HOME } = shared();
  return [SPARKABLATE_MODELS, SPARKABLATE_HOME, HF_HOME];
};

/** The command that runs compose files: version 2, else 1.29. Undefined where there is none. */
export async function composeCommand(): Promise<readonly string[] | undefined> {
  const { execa } = await import("execa");
  for (const command of [["docker", "compose"], ["docker-compose"]] as const) {
    const [program, ...rest] = command;
    const answer = await execa(program, [...rest, "version"], {
      reject: false,
      stdin: "ignore",
      timeout: ANSWER_DEADLINE_MS,
    });
    if (!answer.failed) return command;
  }
  return undefined;
}

/** Runs compose on the package's files; resolves with what it wrote to stdout. */
type Compose = (args: readonly string[], say?: (line: string) => void) => Promise<string>;

async function findCompose(places: Shared, signal: AbortSignal | undefined): Promise<Compose> {
  const command = await composeCommand();
  if (command === undefined) {
    throw new SparkablateError("environment_missing", "neither 'docker compose' nor 'docker-compose' runs", {
      help: "Install Docker with its compose plugin, or use the worker without a container: sparkablate setup.",
    });
  }
  const root = packageRoot();
  const more = (process.env.SPARKABLATE_COMPOSE ?? "").split(delimiter).filter((file) => file !== "");
  const files = [
    join(root, "compose.yaml"),
    ...((await nvidiaPresent()) ? [join(root, "docker", "compose.gpu.yaml")] : []),
    ...more.map((file) => resolve(file)),
  ];
  const [program = "", ...first] = [...command, ...files.flatMap((file) => ["-f", file])];
  return async (args, say = () => undefined) => {
    const { execa } = await import("execa");
    const child = execa(program, [...first, ...args], {
      env: { ...places },
      reject: false,
      stdin: "ignore",
      all: true,
      ...(signal !== undefined && { cancelSignal: signal }),
    });
    for await (const line of child.iterable({ from: "all" })) say(String(line));
    const { failed, all, stdout, shortMessage, isCanceled } = await child;
    if (isCanceled) throw new SparkablateError("interrupted", `interrupted: ${command.join(" ")} ${args[0]}`);
    if (failed) {
      throw new SparkablateError("environment_missing", `${command.join(" ")} ${args.join(" ")} failed`, {
        detail: (all ?? shortMessage).split("\n").slice(-LOG_LINES).join("\n"),
        help: "Read the engine's last lines above.",
      });
    }
    return stdout;
  };
}

/** As the user who calls, not as root, which is what the engine would make them as. */
function makeShared(places: Shared): void {
  const { SPARKABLATE_RUN, SPARKABLATE_MODELS, SPARKABLATE_HOME, HF_HOME } = places;
  const { SUDO_UID, SUDO_GID } = process.env;
  for (const directory of [SPARKABLATE_RUN, SPARKABLATE_MODELS, SPARKABLATE_HOME, HF_HOME]) {
    if (existsSync(directory)) continue;
    const mode = directory === SPARKABLATE_RUN ? 0o700 : 0o755;
    requireDirectory(
      directory,
      mode,
      "Name other directories with SPARKABLATE_MODELS, SPARKABLATE_HOME or HF_HOME.",
    );
    if (SUDO_UID !== undefined) chownSync(directory, Number(SUDO_UID), Number(SUDO_GID ?? SUDO_UID));
  }
  if (statSync(SPARKABLATE_RUN).uid === 0) {
    throw new SparkablateError(
      "usage",
      `${SPARKABLATE_RUN} belongs to root, and the worker runs as its owner`,
      {
        help: "Run this as the user who will use the worker, or give the directory to one with chown.",
      },
    );
  }
}

async function untilListening(
  address: string,
  service: string,
  compose: Compose,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { execa } = await import("execa");
  const deadline = performance.now() + LISTEN_DEADLINE_MS;
  while ((await unreachable(address)) !== null) {
    const id = (await compose(["ps", "-q", service])).trim();
    const state = await execa("docker", ["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", id], {
      reject: false,
    });
    if (state.stdout !== "running 0" || performance.now() > deadline) {
      const logs = await compose(["logs", "--no-color", `--tail=${LOG_LINES}`, service]);
      throw new SparkablateError(
        "environment_missing",
        `the worker's container does not listen (${state.stdout})`,
        {
          detail: logs,
          help: "Read the worker's last lines above; 'sparkablate docker down' ends the container.",
        },
      );
    }
    if (signal?.aborted) throw new SparkablateError("interrupted", "interrupted");
    await sleep(POLL_MS);
  }
}
