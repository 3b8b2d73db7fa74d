/** Frames ↔ messages: one DEALER socket. The only TypeScript file that knows ZeroMQ and msgpack. */
import { Packr, Unpackr } from "msgpackr";
import { Dealer } from "zeromq";
import { SparkablateError } from "../errors.ts";
import {
  type FromWorker,
  fromWorker,
  MAX_ENVELOPE_BYTES,
  MAX_PAYLOAD_BYTES,
  type Request,
  requests,
} from "../protocol.ts";

const HEARTBEAT_MS = 5_000;
const HEARTBEAT_TIMEOUT_MS = 30_000;

const packr = new Packr({ useRecords: false, variableMapSize: true });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: "number" });

export interface Incoming {
  readonly message: FromWorker;
  readonly payload: Uint8Array;
}

export function encode(request: Request): Buffer {
  const envelope = packr.pack(requests[request.type].parse(request));
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
    fields = unpackr.unpack(envelope);
  } catch (cause) {
    throw new SparkablateError("invalid_message", "the envelope is not valid msgpack", { cause });
  }
  const parsed = fromWorker.safeParse(fields);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const where = issue?.path.join("/") || "the envelope";
    throw new SparkablateError("invalid_message", `from the worker: ${where}: ${issue?.message}`);
  }
  return { message: parsed.data, payload };
}

export class Channel {
  readonly #socket: Dealer;
  /** zeromq.js allows one pending send a socket, so sends wait for one another. */
  #sending: Promise<void> = Promise.resolve();

  constructor(address: string) {
    this.#socket = new Dealer({
      linger: 0,
      maxMessageSize: MAX_PAYLOAD_BYTES,
      heartbeatInterval: HEARTBEAT_MS,
      heartbeatTimeout: HEARTBEAT_TIMEOUT_MS,
    });
    this.#socket.connect(address);
  }

  send(request: Request, payload: Uint8Array): Promise<void> {
    const frames = [encode(request), payload];
    const sent = this.#sending.then(() => this.#socket.send(frames));
    // The caller sees a failed send; the next one must not.
    this.#sending = sent.catch(() => undefined);
    return sent;
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
