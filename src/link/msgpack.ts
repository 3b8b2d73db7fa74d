/**
 * Envelopes ↔ values. msgpackr keeps the last of two equal keys and turns extension types into dates, sets and
 * errors, so an envelope is walked first: only maps with text keys, each once, lists, text, finite numbers,
 * truth values and null may be in it, as the worker demands of ours (server/protocol.py).
 */
import { isUtf8 } from "node:buffer";
import { Packr, Unpackr } from "msgpackr";

/** Lists and maps nested deeper than this are refused, as in server/protocol.py. */
const MAX_DEPTH = 16;

const packr = new Packr({ useRecords: false, variableMapSize: true });
const unpackr = new Unpackr({ useRecords: false, mapsAsObjects: true, int64AsType: "number" });

export const pack = (value: unknown): Buffer => packr.pack(wholeAsIntegers(value));

/** msgpackr writes whole numbers beyond 32 bits as floats, which are no integers to the worker. */
function wholeAsIntegers(value: unknown): unknown {
  if (typeof value === "number")
    return Number.isSafeInteger(value) && (value >= 2 ** 32 || value < -(2 ** 31)) ? BigInt(value) : value;
  if (Array.isArray(value)) return value.map(wholeAsIntegers);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, wholeAsIntegers(inner)]));
}

/** Throws a `RangeError` that says what is wrong with the bytes. */
export function unpack(bytes: Uint8Array): unknown {
  const walk = new Walk(bytes);
  walk.value(0);
  if (walk.at !== bytes.length) throw new RangeError("bytes after the end of the message");
  return unpackr.unpack(bytes);
}

/** Visits every value once; believes no length before the bytes are there. */
class Walk {
  at = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  value(depth: number): void {
    if (depth > MAX_DEPTH) throw new RangeError(`nested deeper than ${MAX_DEPTH} levels`);
    const tag = this.#uint(1);
    const text = this.#textLength(tag);
    if (text !== undefined) this.#text(text);
    else if (tag <= 0x7f || tag >= 0xe0)
      return; // small integers
    else if (tag <= 0x8f) this.#map(tag & 0x0f, depth);
    else if (tag <= 0x9f) this.#list(tag & 0x0f, depth);
    else if (tag === 0xc0 || tag === 0xc2 || tag === 0xc3)
      return; // null, false, true
    else if (tag === 0xca) this.#finite(this.#view.getFloat32(this.#skip(4)));
    else if (tag === 0xcb) this.#finite(this.#view.getFloat64(this.#skip(8)));
    else if (tag >= 0xcc && tag <= 0xd3)
      this.#skip(1 << (tag & 3)); // integers, without and with a sign
    else if (tag === 0xdc || tag === 0xdd) this.#list(this.#uint(2 << (tag & 1)), depth);
    else if (tag === 0xde || tag === 0xdf) this.#map(this.#uint(2 << (tag & 1)), depth);
    else throw new RangeError(`type 0x${tag.toString(16)} is not allowed`);
  }

  #list(length: number, depth: number): void {
    for (let item = 0; item < length; item++) this.value(depth + 1);
  }

  #map(length: number, depth: number): void {
    const keys = new Set<string>();
    for (let item = 0; item < length; item++) {
      const text = this.#textLength(this.#uint(1));
      if (text === undefined) throw new RangeError("a key that is no text");
      keys.add(this.#text(text));
      if (keys.size !== item + 1) throw new RangeError("a map has the same key twice");
      this.value(depth + 1);
    }
  }

  /** Undefined where the tag is not that of a text. */
  #textLength(tag: number): number | undefined {
    if (tag >= 0xa0 && tag <= 0xbf) return tag & 0x1f;
    return tag >= 0xd9 && tag <= 0xdb ? this.#uint(1 << (tag - 0xd9)) : undefined;
  }

  #text(length: number): string {
    const from = this.#skip(length);
    const bytes = this.#bytes.subarray(from, from + length);
    if (!isUtf8(bytes)) throw new RangeError("text that is not UTF-8");
    return Buffer.from(bytes.buffer, bytes.byteOffset, length).toString("latin1");
  }

  #finite(value: number): void {
    if (!Number.isFinite(value)) throw new RangeError("NaN and infinity are not allowed");
  }

  /** Big-endian. */
  #uint(width: number): number {
    const from = this.#skip(width);
    let value = 0;
    for (let byte = 0; byte < width; byte++) value = value * 256 + (this.#bytes[from + byte] as number);
    return value;
  }

  /** Returns where the skipped bytes begin. */
  #skip(length: number): number {
    const from = this.at;
    if (length > this.#bytes.length - from) throw new RangeError("the message ends too early");
    this.at += length;
    return from;
  }
}
