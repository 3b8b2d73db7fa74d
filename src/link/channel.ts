/** Frames ↔ messages: one DEALER socket. The only TypeScript file that knows ZeroMQ. */
import { curveKeyPair, Dealer } from "zeromq";
import type { ZodError } from "zod";
import { SparkablateError } from "../errors.ts";
import {
  type FromWorker,
  fromWorker,
  MAX_ENVELOPE_BYTES,
  MAX_PAYLOAD_BYTES,
  type Request,
  requests,
} from "../protocol/messages.ts";
import type { ControllerKeys, KeyPair } from "./keys.ts";
import { pack, unpack } from "./msgpack.ts";

const HEARTBEAT_MS = 5_000;
const HEARTBEAT_TIMEOUT_MS = 30_000;
/** A worker that is starting may break off a handshake or two; one that goes on doing so has another key. */
const HANDSHAKE_PATIENCE_MS = 30_000;

export interface Incoming {
  readonly message: FromWorker;
  readonly payload: Uint8Array;
}

/** Throws `internal` for a request that breaks the schema or the wire's limit. */
export function encode(request: Request): Buffer {
  const parsed = requests[request.type].safeParse(request);
  if (!parsed.success) {
    throw new SparkablateError("internal", `${request.type}: ${firstProblem(parsed.error)}`);
  }
  const envelope = pack(parsed.data);
  if (envelope.length > MAX_ENVELOPE_BYTES) {
    throw new SparkablateError(
      "internal",
      `${request.type}: an envelope of ${envelope.length} bytes is over the limit`,
    );
  }
  return envelope;
}

/** Throws `invalid_message` for anything that is not two frames with a message of the schema in the first. */
export function decode(frames: readonly Uint8Array[]): Incoming {
  const [envelope, payload] = frames;
  if (envelope === undefined || payload === undefined || frames.length !== 2) {
    throw new SparkablateError("invalid_message", `a message has 2 frames, this one has ${frames.length}`);
  }
  if (envelope.length > MAX_ENVELOPE_BYTES || payload.length > MAX_PAYLOAD_BYTES) {
    throw new SparkablateError(
      "invalid_message",
      `frames of ${envelope.length} and ${payload.length} bytes are too long`,
    );
  }
  let fields: unknown;
  try {
    fields = unpack(envelope);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new SparkablateError("invalid_message", `the envelope is not valid: ${reason}`, { cause });
  }
  const parsed = fromWorker.safeParse(fields);
  if (!parsed.success) throw invalidMessage("a message", parsed.error);
  return { message: parsed.data, payload };
}

export const invalidMessage = (what: string, error: ZodError): SparkablateError =>
  new SparkablateError("invalid_message", `${what} from the worker: ${firstProblem(error)}`);

/** Where and what; of thousands of problems the first is enough. */
function firstProblem({ issues: [issue] }: ZodError): string {
  const where = issue?.path.join("/") || "the envelope";
  return `${where}: ${issue?.message}`.slice(0, 500);
}

export const makeKeyPair = (): KeyPair => curveKeyPair();

export class Channel {
  readonly #socket: Dealer;
  /** zeromq.js allows one pending send a socket, so sends wait for one another. */
  #sending: Promise<void> = Promise.resolve();

  /**
   * @param keys null: an address that needs none.
   * @param refused told why the other side, or ours, will never shake hands.
   */
  constructor(address: string, keys: ControllerKeys | null, refused: (error: SparkablateError) => void) {
    this.#socket = new Dealer({
      ...(keys !== null && {
        curvePublicKey: keys.publicKey,
        curveSecretKey: keys.secretKey,
        curveServerKey: keys.workerKey,
      }),
      linger: 0,
      // A name would then lead to its IPv6 address alone, where a worker on 127.0.0.1 does not listen.
      ipv6: address.startsWith("tcp://["),
      maxMessageSize: MAX_PAYLOAD_BYTES,
      heartbeatInterval: HEARTBEAT_MS,
      heartbeatTimeout: HEARTBEAT_TIMEOUT_MS,
    });
    if (address.startsWith("tcp://")) this.#watchHandshakes(address, keys !== null, refused);
    this.#socket.connect(address);
  }

  #watchHandshakes(address: string, keyed: boolean, refused: (error: SparkablateError) => void): void {
    const refuse = (why: string, help: string): void =>
      refused(new SparkablateError("worker_unreachable", `${address}: ${why}`, { help }));
    let failingSince: number | undefined;
    const watch = async (): Promise<void> => {
      for await (const event of this.#socket.events) {
        if (event.type === "handshake") failingSince = undefined;
        else if (event.type === "handshake:error:auth")
          refuse(
            "the worker does not list this controller's key",
            "Copy controller.pub to the worker's keys.",
          );
        else if (event.type === "handshake:error:protocol")
          refuse(
            `the worker ${keyed ? "was started without keys, or this is not a worker" : "requires a key, and none was found here"}`,
            "Start the worker and the controller with keys from the same 'sparkablate keys init'.",
          );
        else if (event.type === "handshake:error:other") {
          failingSince ??= performance.now();
          if (performance.now() - failingSince > HANDSHAKE_PATIENCE_MS)
            refuse(
              "the worker breaks off every handshake",
              "Check that worker.pub is the key of this worker.",
            );
        }
      }
    };
    // Closing the socket may end the wait for its next event with an error.
    watch().catch(() => undefined);
  }

  async send(request: Request, payload: Uint8Array): Promise<void> {
    if (payload.length > MAX_PAYLOAD_BYTES) {
      throw new SparkablateError(
        "internal",
        `${request.type}: a payload of ${payload.length} bytes is over the limit of ${MAX_PAYLOAD_BYTES}`,
      );
    }
    const frames = [encode(request), payload];
    const sent = this.#sending.then(() => this.#socket.send(frames));
    // The caller sees a failed send; the next one must not.
    this.#sending = sent.catch(() => undefined);
    await sent;
  }

  /** Ends when the channel is closed. A frame that is no message is handed to `onInvalid`, not thrown. */
  async *receive(onInvalid: (error: SparkablateError) => void): AsyncGenerator<Incoming> {
    for await (const frames of this.#socket) {
      let incoming: Incoming;
      try {
        incoming = decode(frames);
      } catch (error) {
        if (!(error instanceof SparkablateError)) throw error;
        onInvalid(error);
        continue;
      }
      yield incoming;
    }
  }

  close(): void {
    if (!this.#socket.closed) this.#socket.close();
  }
}
