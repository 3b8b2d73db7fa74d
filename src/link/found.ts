/** This user's worker at the default address: found by itself, and used where one of our own would be the same. */
import { lstatSync, type Stats } from "node:fs";
import { dirname, join } from "node:path";
import { resolveEnvironment, sparkablateHome } from "../environment/environment.ts";
import { SparkablateError } from "../errors.ts";
import type { Result } from "../protocol/messages.ts";
import { MAX_SOCKET_PATH_BYTES, unreachable } from "./address.ts";
import { Client } from "./client.ts";
import { differences } from "./origin.ts";

/** For the connection and its hello, which a worker answers at once, however busy it is. */
const FIND_DEADLINE_MS = 2_000;

/** Where `sparkablate worker` listens if nothing else is said. */
export const defaultSocket = (): string => join(sparkablateHome(), "run", "worker.sock");

/** A worker that is held by this run from now on. */
export interface Found {
  readonly address: string;
  readonly client: Client;
  readonly greeting: Result<"hello">;
}

/** Who else holds the worker there, in the words of its refusal. */
export interface Held {
  readonly heldBy: string;
}

/**
 * @param threads as `differences` takes it.
 * @returns null where none is used; why not is said, where anything lies there.
 */
export async function findWorker(
  runId: string,
  threads: number | null | undefined,
  say: (line: string) => void,
): Promise<Found | Held | null> {
  const socket = defaultSocket();
  const skip = (why: string): null => {
    say(`not using the worker at ${socket}: ${why}; starting one here`);
    return null;
  };
  if (Buffer.byteLength(socket) > MAX_SOCKET_PATH_BYTES) return null; // no worker could listen there
  const unsafe = whyUnsafe(socket);
  if (unsafe !== null) return unsafe === "" ? null : skip(unsafe);
  const address = `ipc://${socket}`;
  const began = performance.now();
  // A worker that was killed leaves its socket behind: there is no worker to speak of.
  if ((await unreachable(address, FIND_DEADLINE_MS)) !== null) return null;
  const client = new Client(address, new Promise<SparkablateError>(() => undefined));
  try {
    const greeting = await client.hello(runId, FIND_DEADLINE_MS - (performance.now() - began));
    const differs = differences(greeting, resolveEnvironment(), threads);
    if (differs === null) {
      const { pid } = greeting.origin ?? {};
      say(
        `using the worker at ${socket} (pid ${pid}${greeting.model === null ? "" : `, ${greeting.model} loaded`})`,
      );
      return { address, client, greeting };
    }
    await client.call("goodbye", {}, { deadlineMs: FIND_DEADLINE_MS });
    client.close();
    return skip(differs);
  } catch (error) {
    client.close();
    if (!(error instanceof SparkablateError)) throw error;
    if (error.code === "worker_busy") return { heldBy: error.message };
    if (error.code === "environment_missing") throw error;
    return skip(error.message);
  }
}

/** Why what lies there is not to be trusted, in words; empty: nothing lies there; null: it is ours alone. */
function whyUnsafe(socket: string): string | null {
  for (const path of [dirname(socket), socket]) {
    const stats = lstatSync(path, { throwIfNoEntry: false });
    if (stats === undefined) return "";
    const [rule] = RULES.filter(([broken]) => broken(stats, path === socket));
    if (rule !== undefined) return `${path} ${rule[1]}`;
  }
  return null;
}

const RULES: readonly (readonly [broken: (stats: Stats, isSocket: boolean) => boolean, words: string])[] = [
  [(stats) => stats.isSymbolicLink(), "is a link"],
  [(stats, isSocket) => !(isSocket ? stats.isSocket() : stats.isDirectory()), "is something else"],
  [(stats) => stats.uid !== process.geteuid?.(), "belongs to another user"],
  [(stats) => (stats.mode & 0o777) !== 0o700, "is open to others (its mode is not 700)"],
];
