/** A worker one can talk to: spawned here and replaced when it dies, or running elsewhere and reached again. */
import { setTimeout as sleep } from "node:timers/promises";
import { SparkablateError } from "../errors.ts";
import type { Result } from "../protocol/messages.ts";
import { parseAddress, unreachable } from "./address.ts";
import { Client, HELLO_DEADLINE_MS } from "./client.ts";
import { containerWorker } from "./container.ts";
import { findWorker } from "./found.ts";
import { keysFor, readControllerKeys } from "./keys.ts";
import type { WorkerProcess } from "./spawn.ts";

const GOODBYE_DEADLINE_MS = 2_000;
const RECONNECT_AFTER_MS = 1_000;
/** Between two looks whether a worker is free. */
const WAIT_MS = 1_000;
const SLOW_START_MS = 30_000;
const STARTING = "the worker is still importing its libraries; on a slow disk this takes minutes";

export class Worker {
  readonly #place: Place;
  readonly #signal: AbortSignal;
  readonly #threads: Threads;
  #runId: string;
  #process: WorkerProcess | undefined;
  #client: Client;
  /** What the worker answered to hello. */
  greeting: Result<"hello">;

  private constructor(
    place: Place,
    runId: string,
    signal: AbortSignal,
    threads: Threads,
    connected: Connected,
  ) {
    this.#place = place;
    this.#threads = threads;
    this.#runId = runId;
    this.#signal = signal;
    this.#process = connected.process;
    this.#client = connected.client;
    this.greeting = connected.greeting;
  }

  /**
   * A worker of our own that dies before its hello is started once more.
   * @param runId who holds the worker: a hello of the same run takes it over.
   * @param signal ends every wait for a worker that is starting, and that worker.
   * @param threads `model.threads` of what it is wanted for.
   */
  static async attach(
    asked: Place,
    runId: string,
    signal: AbortSignal,
    threads: Threads = undefined,
  ): Promise<Worker> {
    const say = asked.say ?? (() => undefined);
    const address =
      asked.address === "docker" ? await containerWorker({ keys: asked.keys, say, signal }) : asked.address;
    if (!isHere(address)) parseAddress(address);
    const place = { ...asked, address };
    const connected = await retryingOnce(
      () => connect(place, runId, signal, threads),
      () => !isHere(place.address) || signal.aborted,
      async ({ message }) => say(`${message} before it was ready; starting it once more`),
    );
    return new Worker(place, runId, signal, threads, connected);
  }

  get client(): Client {
    return this.#client;
  }

  /** The pid of a worker spawned here. */
  get pid(): number | null {
    return this.#process?.pid ?? null;
  }

  /** After a death, a stall or a lost session: a new process or connection, and a new session. */
  async reconnect(): Promise<void> {
    this.#client.close();
    await this.#process?.kill();
    const { process, client, greeting } = await connect(
      this.#place,
      this.#runId,
      this.#signal,
      this.#threads,
      HELLO_DEADLINE_MS,
    );
    this.#process = process;
    this.#client = client;
    this.greeting = greeting;
  }

  /** Ends this session and opens one for another run; the worker keeps its loaded model. */
  async hold(runId: string): Promise<void> {
    await this.#client.call("goodbye", {}, { deadlineMs: GOODBYE_DEADLINE_MS });
    this.#runId = runId;
    this.greeting = await this.#client.hello(runId);
  }

  /** Ends a worker of our own at once, or lets go of one elsewhere. */
  async kill(): Promise<void> {
    this.#client.close();
    await this.#process?.kill();
  }

  /** Says goodbye to a running worker, shuts down one of our own; then no process of ours is left. */
  async close(): Promise<void> {
    const last = this.#process === undefined ? "goodbye" : "shutdown";
    try {
      await this.#client.call(last, {}, { deadlineMs: GOODBYE_DEADLINE_MS });
    } catch (error) {
      // It may be dead, stalled, or may have given the session away; stop() ends it all the same.
      if (!(error instanceof SparkablateError)) throw error;
    } finally {
      this.#client.close();
      await this.#process?.stop();
    }
  }
}

/**
 * Work that leaves nothing half-done, from its beginning once more where the worker was lost.
 * @param stopped whether nobody wants it any longer.
 * @param recover brings the worker back.
 */
export async function retryingOnce<T>(
  work: () => Promise<T>,
  stopped: () => boolean,
  recover: (error: SparkablateError) => Promise<void>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof SparkablateError) || !error.retryable || stopped()) throw error;
    await recover(error);
    return await work();
  }
}

/** As a config has them; undefined where none is read yet. */
type Threads = number | null | undefined;

/** Whether the worker is one of ours on this machine: found or spawned. */
export const isHere = (address: string | null): address is "spawn" | null =>
  address === null || address === "spawn";

/** Where a worker is. */
export interface Place {
  /**
   * `ipc://…` or `tcp://…` of a running worker, or `docker` for the compose service; `spawn`: start one here; null: this
   * user's worker at the default address where one started here would be the same, else start one.
   */
  readonly address: string | null;
  /** Whether to wait for a worker that somebody else holds. */
  readonly wait?: boolean | undefined;
  /** Directory of the keys that a `tcp://…` worker wants. */
  readonly keys?: string | undefined;
  /** Told, a line at a time, what a container engine says, and why a worker's start takes long. */
  readonly say?: ((line: string) => void) | undefined;
}

interface Connected {
  readonly process: WorkerProcess | undefined;
  readonly client: Client;
  readonly greeting: Result<"hello">;
}

/** @param patienceMs how long to wait for a worker elsewhere that does not listen: one is being started again. */
async function connect(
  place: Place,
  runId: string,
  signal: AbortSignal,
  threads: Threads,
  patienceMs = 0,
): Promise<Connected> {
  const { address, keys } = place;
  if (address === null) return await foundOrSpawned(place, runId, signal, threads);
  if (address === "spawn") return await spawned(place, runId, signal, null);
  const directory = keysFor(address, "controller", keys);
  const proof = directory === null ? null : readControllerKeys(directory);
  await untilReached(address, signal, patienceMs);
  return await untilFree(place, signal, async () => {
    const client = new Client(address, new Promise<SparkablateError>(() => undefined), proof);
    return await greeted(client, undefined, place, runId, signal);
  });
}

async function foundOrSpawned(
  place: Place,
  runId: string,
  signal: AbortSignal,
  threads: Threads,
): Promise<Connected> {
  const { say = () => undefined, wait = false } = place;
  for (let waited = false; ; waited = true) {
    if (signal.aborted) throw new SparkablateError("interrupted", "interrupted");
    const found = await findWorker(runId, threads, say);
    if (found === null) return await spawned(place, runId, signal, null);
    if ("client" in found) return { process: undefined, ...found };
    if (!wait) {
      say(`${found.heldBy}; starting another one here (--wait waits for it)`);
      return await spawned(place, runId, signal, found.heldBy);
    }
    if (!waited) say(waitingFor(found.heldBy));
    await sleep(WAIT_MS);
  }
}

/** @param heldBy who holds the worker that was found: told where there is no room for another one. */
async function spawned(
  place: Place,
  runId: string,
  signal: AbortSignal,
  heldBy: string | null,
): Promise<Connected> {
  if (signal.aborted) throw new SparkablateError("interrupted", "interrupted");
  const process = (await import("./spawn.ts")).spawnWorker();
  const client = new Client(process.address, process.died, null, heldBy);
  return await greeted(client, process, place, runId, signal);
}

async function greeted(
  client: Client,
  process: WorkerProcess | undefined,
  { say }: Place,
  runId: string,
  signal: AbortSignal,
): Promise<Connected> {
  const stop = (): void => client.close();
  signal.addEventListener("abort", stop, { once: true });
  if (signal.aborted) stop();
  const slow = setTimeout(() => say?.(STARTING), SLOW_START_MS);
  try {
    const greeting = await client.hello(runId, process && Number.POSITIVE_INFINITY);
    return { process, client, greeting };
  } catch (error) {
    client.close();
    await process?.kill();
    throw error;
  } finally {
    clearTimeout(slow);
    signal.removeEventListener("abort", stop);
  }
}

/** With `wait`, tries again as long as somebody else holds the worker. */
async function untilFree(
  { say, wait = false }: Place,
  signal: AbortSignal,
  work: () => Promise<Connected>,
): Promise<Connected> {
  for (let waited = false; ; waited = true) {
    try {
      return await work();
    } catch (error) {
      if (!wait || signal.aborted) throw error;
      if (!(error instanceof SparkablateError) || error.code !== "worker_busy") throw error;
      if (!waited) say?.(waitingFor(error.message));
      await sleep(WAIT_MS);
    }
  }
}

const waitingFor = (heldBy: string): string => `waiting: ${heldBy}`;

/** @throws SparkablateError worker_unreachable, saying why, for an address at which nobody listens. */
async function untilReached(address: string, signal: AbortSignal, patienceMs: number): Promise<void> {
  const began = performance.now();
  if (patienceMs > 0) await sleep(RECONNECT_AFTER_MS);
  for (;;) {
    const why = await unreachable(address);
    if (why === null) return;
    if (signal.aborted || performance.now() - began >= patienceMs)
      throw new SparkablateError("worker_unreachable", `${address}: ${why}`);
    await sleep(RECONNECT_AFTER_MS);
  }
}
