/** Typed calls over a channel: request ids, the session and its pings, deadlines, the worker's end. */
import { randomInt } from "node:crypto";
import { hostname } from "node:os";
import { SparkablateError } from "../errors.ts";
import {
  type Event,
  type FromWorker,
  type Owner,
  type Request,
  type RequestType,
  type Result,
  results,
} from "../protocol/messages.ts";
import { SCHEMA_SHA256 } from "../protocol/schema-sha256.ts";
import { Channel, invalidMessage } from "./channel.ts";
import type { ControllerKeys } from "./keys.ts";
import { Mounts } from "./mounts.ts";

const PING_EVERY_MS = 5_000;
const PING_DEADLINE_MS = 10_000;
/** Pings in a row without an answer after which nobody is there: the worker's I/O thread is never this busy. */
const MOST_UNANSWERED_PINGS = 24;
/** Of a worker that takes connections: it answers at once, however busy it is. */
export const HELLO_DEADLINE_MS = 120_000;
/** Work must report progress, a measurement or its reply within this time. */
export const STALL_DEADLINE_MS = 15 * 60_000;

type Bare<R> = R extends unknown ? Omit<R, "type" | "id" | "session"> : never;
/** A request without what the client fills in. */
export type Fields<T extends RequestType> = Bare<Request<T>>;

export interface CallOptions {
  readonly payload?: Uint8Array;
  readonly onEvent?: (event: Event, payload: Uint8Array) => void;
  /** Infinity: none; the end of the worker's process ends the wait. */
  readonly deadlineMs?: number;
}

export interface Called<T extends RequestType> {
  readonly result: Result<T>;
  readonly payload: Uint8Array;
}

interface Pending {
  readonly type: RequestType;
  /** Whose reply it is; empty for hello. */
  readonly session: string;
  readonly onEvent: CallOptions["onEvent"];
  readonly resolve: (called: Called<RequestType>) => void;
  readonly reject: (error: unknown) => void;
  readonly timer: NodeJS.Timeout | undefined;
}

export class Client {
  readonly #address: string;
  readonly #channel: Channel;
  #mounts: Mounts;
  readonly #pending = new Map<number, Pending>();
  readonly #pinger: NodeJS.Timeout;
  #nextId = 0;
  #session = "";
  #unanswered = 0;
  #ended: SparkablateError | undefined;
  readonly #besides: string | null;

  /**
   * @param died resolves with an error when the worker's process ends; never settles for a remote one.
   * @param keys for an authenticated TCP link.
   * @param besides who holds the worker that this one was started beside: said where there is no room for both.
   */
  constructor(
    address: string,
    died: Promise<SparkablateError>,
    keys: ControllerKeys | null = null,
    besides: string | null = null,
  ) {
    this.#address = address;
    this.#besides = besides;
    this.#mounts = new Mounts(address, []);
    this.#channel = new Channel(address, keys, (error) => this.#end(error));
    this.#listen().catch((cause) => this.#end(broken(cause)));
    void died.then((error) => this.#end(error));
    this.#pinger = setInterval(() => {
      if (this.#session !== "") void this.#ping(this.#session);
    }, PING_EVERY_MS);
    this.#pinger.unref();
  }

  async hello(runId: string, deadlineMs = HELLO_DEADLINE_MS): Promise<Result<"hello">> {
    const besides = this.#besides === null ? {} : { besides: this.#besides };
    const owner: Owner = { run_id: runId, pid: process.pid, host: hostname(), ...besides };
    const { result } = await this.call("hello", { schema_sha256: SCHEMA_SHA256, owner }, { deadlineMs });
    this.#session = result.session;
    this.#mounts = new Mounts(this.#address, result.mounts);
    return result;
  }

  async #ping(session: string): Promise<void> {
    try {
      await this.call("ping", {}, { deadlineMs: PING_DEADLINE_MS });
    } catch (error) {
      if (!(error instanceof SparkablateError)) throw error;
      if (error.code === "session_lost") {
        // The worker has given up this session's work, and nobody else would tell those who wait for it.
        for (const [id, pending] of this.#pending)
          if (pending.session === session) this.#settle(id)?.reject(error);
      } else if (error.code === "worker_stalled" && ++this.#unanswered >= MOST_UNANSWERED_PINGS) {
        this.#rejectAll(new SparkablateError("worker_unreachable", "the worker no longer answers"));
      }
    }
  }

  /** Sends one request and waits for its reply; events go to `onEvent` as they come. */
  async call<T extends RequestType>(
    type: T,
    fields: Fields<T>,
    options: CallOptions = {},
  ): Promise<Called<T>> {
    return (await this.start(type, fields, options).reply) as Called<T>;
  }

  /** Like `call`, for a request that may be cancelled: its id is known at once. */
  start<T extends RequestType>(
    type: T,
    fields: Fields<T>,
    { payload = new Uint8Array(), onEvent, deadlineMs = STALL_DEADLINE_MS }: CallOptions = {},
  ): { id: number; reply: Promise<Called<T>> } {
    const id = this.#nextId++;
    const session = type === "hello" ? "" : this.#session;
    const reply = new Promise<Called<RequestType>>((resolve, reject) => {
      const mapped = this.#mounts.outgoing(type, fields);
      const request = { type, id, ...(session && { session }), ...mapped } as unknown as Request;
      if (this.#ended !== undefined) {
        reject(this.#ended);
        return;
      }
      const late = (): void => this.#settle(id)?.reject(stalled(type, deadlineMs));
      const timer = deadlineMs === Number.POSITIVE_INFINITY ? undefined : setTimeout(late, deadlineMs);
      this.#pending.set(id, { type, session, onEvent, resolve, reject, timer });
      this.#channel.send(request, payload).catch((cause) => this.#settle(id)?.reject(unsent(type, cause)));
    });
    return { id, reply: reply as Promise<Called<T>> };
  }

  /** Stops listening; what is pending is rejected. */
  close(reason = new SparkablateError("interrupted", "the connection was closed")): void {
    this.#end(reason);
  }

  #end(error: SparkablateError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    clearInterval(this.#pinger);
    this.#channel.close();
    this.#rejectAll(error);
  }

  /** Where it cannot be known whose reply went wrong, whoever waits is told. */
  #rejectAll(error: SparkablateError): void {
    for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(error);
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (pending !== undefined) {
      clearTimeout(pending.timer);
      this.#pending.delete(id);
    }
    return pending;
  }

  async #listen(): Promise<void> {
    for await (const { message, payload } of this.#channel.receive((error) => this.#rejectAll(error)))
      this.#dispatch(message, payload);
  }

  #dispatch(message: FromWorker, payload: Uint8Array): void {
    this.#unanswered = 0;
    if (message.type === "reply") {
      const pending = this.#settle(message.id);
      if (pending === undefined) return; // a late reply, after its deadline
      const parsed = results[pending.type].safeParse(message.result);
      if (parsed.success)
        pending.resolve({ result: this.#mounts.incoming(pending.type, parsed.data as Result), payload });
      else pending.reject(invalidMessage(`the result of ${pending.type}`, parsed.error));
    } else if (message.type === "failure") {
      const { code, message: text, detail } = message.error;
      const error = new SparkablateError(code, text.split("\n"), {
        detail: detail === "" ? undefined : detail,
      });
      if (message.id === null) this.#rejectAll(error);
      else this.#settle(message.id)?.reject(error);
    } else {
      const pending = this.#pending.get(message.id);
      pending?.timer?.refresh();
      try {
        pending?.onEvent?.(message, payload);
      } catch (error) {
        this.#settle(message.id)?.reject(error);
      }
    }
  }
}

const stalled = (type: RequestType, deadlineMs: number): SparkablateError =>
  type === "hello"
    ? new SparkablateError("worker_unreachable", `the worker did not answer within ${deadlineMs / 1000} s`)
    : new SparkablateError("worker_stalled", `${type}: no progress within ${deadlineMs / 1000} s`);

/** What our own side refuses to send is no fault of the link. */
const unsent = (type: RequestType, cause: unknown): SparkablateError =>
  cause instanceof SparkablateError
    ? cause
    : new SparkablateError("worker_unreachable", `${type} could not be sent`, { cause });

const broken = (cause: unknown): SparkablateError =>
  new SparkablateError("worker_unreachable", "the connection broke", { cause });

/** A fresh owner id for commands that have no run directory. */
export const anonymousRunId = (): string => `command-${randomInt(2 ** 47).toString(36)}`;
