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
} from "../protocol.ts";
import { SCHEMA_SHA256 } from "../schema-sha256.ts";
import { Channel } from "./channel.ts";

const PING_EVERY_MS = 5_000;
/** A worker that is starting imports its libraries first; on a cold disk that takes its time. */
const HELLO_DEADLINE_MS = 120_000;
/** Work must report progress, a measurement or its reply within this time. */
export const STALL_DEADLINE_MS = 15 * 60_000;

type Bare<R> = R extends unknown ? Omit<R, "type" | "id" | "session"> : never;
/** A request without what the client fills in. */
type Fields<T extends RequestType> = Bare<Request<T>>;

export interface CallOptions {
  readonly payload?: Uint8Array;
  readonly onEvent?: (event: Event, payload: Uint8Array) => void;
  readonly deadlineMs?: number;
}

export interface Called<T extends RequestType> {
  readonly result: Result<T>;
  readonly payload: Uint8Array;
}

interface Pending {
  readonly type: RequestType;
  readonly onEvent: CallOptions["onEvent"];
  readonly resolve: (called: Called<RequestType>) => void;
  readonly reject: (error: unknown) => void;
  readonly timer: NodeJS.Timeout;
}

export class Client {
  readonly #channel: Channel;
  readonly #pending = new Map<number, Pending>();
  readonly #pinger: NodeJS.Timeout;
  #nextId = 0;
  #session = "";
  #ended: SparkablateError | undefined;

  /** @param died rejects or resolves with an error when the worker's process ends; never settles for a remote one. */
  constructor(address: string, died: Promise<SparkablateError>) {
    this.#channel = new Channel(address);
    void this.#listen();
    void died.then((error) => this.#end(error));
    this.#pinger = setInterval(() => {
      // A lost ping shows in the next call, as session_lost or as the worker's exit.
      if (this.#session !== "")
        this.call("ping", {}, { deadlineMs: 2 * PING_EVERY_MS }).catch(() => undefined);
    }, PING_EVERY_MS);
    this.#pinger.unref();
  }

  async hello(runId: string): Promise<Result<"hello">> {
    const owner: Owner = { run_id: runId, pid: process.pid, host: hostname() };
    const { result } = await this.call(
      "hello",
      { schema_sha256: SCHEMA_SHA256, owner },
      { deadlineMs: HELLO_DEADLINE_MS },
    );
    this.#session = result.session;
    return result;
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
    const session = type === "hello" ? {} : { session: this.#session };
    const request = { type, id, ...session, ...fields } as unknown as Request;
    const reply = new Promise<Called<RequestType>>((resolve, reject) => {
      if (this.#ended !== undefined) {
        reject(this.#ended);
        return;
      }
      const timer = setTimeout(() => this.#settle(id)?.reject(stalled(type, deadlineMs)), deadlineMs);
      this.#pending.set(id, { type, onEvent, resolve, reject, timer });
      this.#channel
        .send(request, payload)
        .catch((cause) => this.#settle(id)?.reject(unreachable(type, cause)));
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
    const onInvalid = (error: SparkablateError): void => {
      // Whose reply it was cannot be known, so whoever waits is told; a retry asks again.
      for (const id of [...this.#pending.keys()]) this.#settle(id)?.reject(error);
    };
    for await (const { message, payload } of this.#channel.receive(onInvalid))
      this.#dispatch(message, payload);
  }

  #dispatch(message: FromWorker, payload: Uint8Array): void {
    if (message.type === "reply") {
      const pending = this.#settle(message.id);
      if (pending === undefined) return; // a late reply, after its deadline
      const parsed = results[pending.type].safeParse(message.result);
      if (parsed.success) pending.resolve({ result: parsed.data as Result, payload });
      else
        pending.reject(new SparkablateError("invalid_message", `${pending.type}: ${parsed.error.message}`));
    } else if (message.type === "failure") {
      const { code, message: text, detail } = message.error;
      const error = new SparkablateError(code, text, { detail: detail === "" ? undefined : detail });
      if (message.id !== null) this.#settle(message.id)?.reject(error);
    } else {
      const pending = this.#pending.get(message.id);
      pending?.timer.refresh();
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

const unreachable = (type: RequestType, cause: unknown): SparkablateError =>
  new SparkablateError("worker_unreachable", `${type} could not be sent`, { cause });

/** A fresh owner id for commands that have no run directory. */
export const anonymousRunId = (): string => `command-${randomInt(2 ** 47).toString(36)}`;
