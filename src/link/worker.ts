/** A worker one can talk to: spawned here and replaced when it dies, or running elsewhere and reached again. */
import { setTimeout as sleep } from "node:timers/promises";
import { SparkablateError } from "../errors.ts";
import type { Result } from "../protocol/messages.ts";
import { parseAddress, unreachable } from "./address.ts";
import { Client, HELLO_DEADLINE_MS } from "./client.ts";
import { containerWorker } from "./container.ts";
import { keysFor, readControllerKeys } from "./keys.ts";
import type { WorkerProcess } from "./spawn.ts";

const GOODBYE_DEADLINE_MS = 2_000;
const RECONNECT_AFTER_MS = 1_000;
const SLOW_START_MS = 30_000;
const STARTING = "the worker is still importing its libraries; on a slow disk this takes minutes";

export class Worker {
  readonly #place: Place;
  readonly #signal: AbortSignal;
  #runId: string;
  #process: WorkerProcess | undefined;
  #client: Client;
  /** What the worker answered to hello. */
  greeting: Result<"hello">;

  private constructor(place: Place, runId: string, signal: AbortSignal, connected: Connected) {
    this.#place = place;
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
   */
  static async attach(asked: Place, runId: string, signal: AbortSignal): Promise<Worker> {
    const say = asked.say ?? (() => undefined);
    const address =
      asked.address === "docker" ? await containerWorker({ keys: asked.keys, say, signal }) : asked.address;
    if (address !== null) parseAddress(address);
    const place = { ...asked, address };
    const connected = await retryingOnce(
      () => connect(place, runId, signal),
      () => place.address !== null || signal.aborted,
      async ({ message }) => say(`${message} before it was ready; starting it once more`),
    );
    return new Worker(place, runId, signal, connected);
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

/** Where a worker is. */
export interface Place {
  /** `ipc://…` or `tcp://…` of a running worker, or `docker` for the compose service; null: spawn one here. */
  readonly address: string | null;
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
  { address, keys, say }: Place,
  runId: string,
  signal: AbortSignal,
  patienceMs = 0,
): Promise<Connected> {
  const directory = address === null ? null : keysFor(address, "controller", keys);
  const proof = directory === null ? null : readControllerKeys(directory);
  if (address !== null) await untilReached(address, signal, patienceMs);
  if (signal.aborted) throw new SparkablateError("interrupted", "interrupted");
  const process = address === null ? (await import("./spawn.ts")).spawnWorker() : undefined;
  const remote = new Promise<SparkablateError>(() => undefined);
  const client = new Client(address ?? process?.address ?? "", process?.died ?? remote, proof);
  const stop = (): void => client.close();
  signal.addEventListener("abort", stop, { once: true });
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
