/** Files that people give → bytes and text: the one reader. Bounded; what is no text is refused by its place. */
import { isUtf8 } from "node:buffer";
import { closeSync, openSync, readSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { SparkablateError } from "../errors.ts";
import { neighbour } from "./paths.ts";

const CHUNK_BYTES = 1 << 20;
const LINE_FEED = 0x0a;
/** Most bytes of one character, and of a byte order mark. */
const CHARACTER_BYTES = 4;
const BYTE_ORDER_MARK = Buffer.from([0xef, 0xbb, 0xbf]);
/** Encodings that a file's first bytes give away; of two that begin alike the longer mark first. */
const OTHER_MARKS = [
  { encoding: "UTF-32", mark: Buffer.from([0xff, 0xfe, 0x00, 0x00]) },
  { encoding: "UTF-32", mark: Buffer.from([0x00, 0x00, 0xfe, 0xff]) },
  { encoding: "UTF-16", mark: Buffer.from([0xff, 0xfe]) },
  { encoding: "UTF-16", mark: Buffer.from([0xfe, 0xff]) },
] as const;
/** What a shell's `<(…)` and a pipe into us are called: somebody writes into them already. */
const OWN_DESCRIPTOR = /^\/(?:dev\/(?:fd\/\d+|stdin)|proc\/(?:self|\d+)\/fd\/\d+)$/;

/** A file's first bytes, and whether there are more. */
interface Head {
  readonly bytes: Buffer;
  readonly more: boolean;
}

/** A whole file that is text. */
export interface TextFile {
  /** As they are in the file: what its sha256 is of. */
  readonly bytes: Buffer;
  /** Without a byte order mark. */
  readonly text: string;
}

/**
 * @param what what messages call it, e.g. "the task file".
 * @param most bytes that are given; no more than one behind them is read.
 * @param cwd what a relative path is relative to.
 * @throws SparkablateError input_missing for what cannot be read, or is a directory, a named pipe, a socket, a device.
 */
export function readHead(path: string, what: string, most: number, cwd = process.cwd()): Head {
  let file: number | undefined;
  try {
    requireFile(path, what, cwd);
    file = openSync(resolve(cwd, path), "r");
    const chunks: Buffer[] = [];
    let size = 0;
    for (let got = -1; got !== 0 && size <= most; size += got) {
      const chunk = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, most + 1 - size));
      got = readSync(file, chunk, 0, chunk.length, null);
      chunks.push(chunk.subarray(0, got));
    }
    return { bytes: Buffer.concat(chunks).subarray(0, most), more: size > most };
  } catch (cause) {
    if (cause instanceof SparkablateError) throw cause;
    const { code } = cause as NodeJS.ErrnoException;
    const why = code === "ENOENT" ? `: there is no such file${neighbour(resolve(cwd, path))}` : ` (${code})`;
    throw new SparkablateError("input_missing", `${path}: ${what} cannot be read${why}`, { cause });
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** A named pipe that nobody writes into would be waited for, for ever. */
function requireFile(path: string, what: string, cwd: string): void {
  const stats = statSync(resolve(cwd, path));
  if (stats.isFile() || (stats.isFIFO() && OWN_DESCRIPTOR.test(resolve(cwd, path)))) return;
  const kinds = [
    ["a directory", stats.isDirectory()],
    ["a named pipe", stats.isFIFO()],
    ["a socket", stats.isSocket()],
  ] as const;
  const kind = kinds.find(([, holds]) => holds)?.[0] ?? "a device";
  throw new SparkablateError("input_missing", `${path}: ${what} cannot be read: it is ${kind}`);
}

/**
 * A file that is read whole.
 * @throws SparkablateError as readHead; config_invalid for more than `most` bytes and for what is not UTF-8.
 */
export function readTextFile(path: string, what: string, most: number, cwd = process.cwd()): TextFile {
  const { bytes, more } = readHead(path, what, most, cwd);
  if (more) {
    const message = `${path}: ${what} has more than ${most} bytes; allowed: up to ${most}`;
    throw new SparkablateError("config_invalid", message);
  }
  return { bytes, text: utf8(bytes, path).toString("utf8") };
}

/**
 * The beginning of a text of any length: up to the last line that ends within `most` bytes, without a byte order mark.
 * @throws SparkablateError as readTextFile.
 */
export function readBeginning(path: string, what: string, most: number): Head {
  const head = readHead(path, what, most + CHARACTER_BYTES);
  const begin = markLength(head.bytes);
  const end = head.bytes.length <= most + begin ? head.bytes.length : lastLine(head.bytes, most + begin);
  const bytes = utf8(head.bytes.subarray(0, end), path);
  return { bytes, more: head.more || end < head.bytes.length };
}

/** Where the last line that ends before `most` ends; of one endless line the last character. */
function lastLine(bytes: Buffer, most: number): number {
  const line = bytes.lastIndexOf("\n", most - 1) + 1;
  if (line > 0) return line;
  // The byte before which a character may begin: one that does not continue another.
  const back = [0, 1, 2, 3].find((before) => ((bytes[most - before] ?? 0) & 0xc0) !== 0x80);
  return most - (back ?? 0);
}

const markLength = (bytes: Buffer): number =>
  bytes.subarray(0, BYTE_ORDER_MARK.length).equals(BYTE_ORDER_MARK) ? BYTE_ORDER_MARK.length : 0;

/**
 * The bytes without a byte order mark, which is no text.
 * @throws SparkablateError config_invalid with line and byte of what is no UTF-8 text.
 */
function utf8(bytes: Buffer, path: string): Buffer {
  const other = OTHER_MARKS.find(({ mark }) => bytes.subarray(0, mark.length).equals(mark));
  if (other !== undefined) {
    const message = `${path}: is not UTF-8 text, but ${other.encoding}, by its first bytes`;
    throw new SparkablateError("config_invalid", message, { help: `Convert it: ${iconv(other.encoding)}` });
  }
  const fault = firstFault(bytes);
  if (fault === null) return bytes.subarray(markLength(bytes));
  const line = bytes.subarray(0, fault).filter((byte) => byte === LINE_FEED).length + 1;
  const place = `at byte offset ${fault} (line ${line})`;
  if (bytes[fault] === 0) {
    throw new SparkablateError("config_invalid", `${path}: is not text: there is a NUL ${place}`, {
      help: `Give a text file. If this one is UTF-16, convert it: ${iconv("UTF-16")}`,
    });
  }
  const value = `0x${(bytes[fault] ?? 0).toString(16).padStart(2, "0")}`;
  throw new SparkablateError("config_invalid", `${path}: is not UTF-8 text: ${value} ${place}`, {
    help: `Convert it from its encoding, for example: ${iconv("WINDOWS-1252")}`,
  });
}

const iconv = (encoding: string): string => `iconv -f ${encoding} -t UTF-8 OLD > NEW`;

/** Where the first NUL stands, or the first byte that belongs to no character; null: nowhere. */
function firstFault(bytes: Buffer): number | null {
  const nul = bytes.indexOf(0);
  const whole = isUtf8(bytes) ? bytes.length : validLength(bytes);
  if (nul >= 0 && nul < whole) return nul;
  return whole < bytes.length ? whole : null;
}

/** Bytes before the first that belongs to no character: beginnings are text up to there, and never behind it. */
function validLength(bytes: Buffer): number {
  const characters = (length: number): number | undefined =>
    Array.from({ length: CHARACTER_BYTES }, (_, cut) => length - cut).find(
      (end) => end >= 0 && isUtf8(bytes.subarray(0, end)),
    );
  let [valid, invalid] = [0, bytes.length + CHARACTER_BYTES];
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >> 1;
    if (middle <= bytes.length && characters(middle) !== undefined) valid = middle;
    else invalid = middle;
  }
  return characters(valid) ?? 0;
}
