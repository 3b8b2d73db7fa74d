/**
 * Direction files → vectors. safetensors are read here, strictly; a `.pt` is a pickle, so the worker reads
 * it with torch's restricted loader and no code in it is ever run.
 */
import type { RunConfig } from "../config/load.ts";
import { readHead } from "../config/text-file.ts";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import type { Client } from "../link/client.ts";
import { MAX_PAYLOAD_BYTES, type ModelMap } from "../protocol/messages.ts";

/** Most that a unit vector's length may be off; the worker checks the same. */
const UNIT_TOLERANCE = 1e-3;
const LENGTH_BYTES = 8;
const MAX_HEADER_BYTES = 1 << 20;
const TENSOR = "direction";

/** A unit vector of the residual stream. */
export interface Direction {
  /** Unit vector, float32  # [d_model] */
  readonly vector: Float32Array;
  /** Digest of the vector's little-endian bytes, as `put` sends them. */
  readonly sha256: string;
  /** Layer whose stream it was found in; null where the file does not say. */
  readonly layer: number | null;
  /** s of `add`: the length that was divided out; 1 where the file does not say. */
  readonly norm: number;
}

/** A file's bytes that only Python can understand. */
interface Pickled {
  readonly pickle: Uint8Array;
}

/** Direction files by their path, as far as they can be read without Python. */
export type DirectionFiles = ReadonlyMap<string, Direction | Pickled>;

/** The files that a config's conditions name, in order of use. */
export const directionPaths = ({ ablation }: RunConfig): string[] =>
  [...ablation.targets.flat(), ...ablation.directions, ...(ablation.given ?? []).flat()].flatMap((spec) =>
    "path" in spec ? [spec.path] : [],
  );

/** @throws SparkablateError input_missing, config_invalid; the message names the file and the remedy. */
export function readDirectionFiles(paths: Iterable<string>): DirectionFiles {
  return new Map(
    [...new Set(paths)].map((path) => [
      path,
      path.endsWith(".pt") ? { pickle: fileBytes(path) } : readDirection(path),
    ]),
  );
}

/** Lets the worker read what is pickled. @throws SparkablateError as readDirectionFiles. */
export async function unpickled(files: DirectionFiles, client: Client): Promise<Map<string, Direction>> {
  const directions = new Map<string, Direction>();
  for (const [path, file] of files) {
    directions.set(path, "pickle" in file ? await unpickle(path, file.pickle, client) : file);
  }
  requireOneNorm(directions);
  return directions;
}

/** Sends vectors to a worker that has the model loaded; conditions name them by sha256. */
export async function sendDirections(directions: Iterable<Direction>, client: Client): Promise<void> {
  for (const { vector, sha256, norm } of directions) {
    await client.call("put", { kind: "direction", sha256, norm }, { payload: bytesOf(vector) });
  }
}

/** @throws SparkablateError config_invalid where a vector is not as wide as the model. */
export function requireWidth(directions: ReadonlyMap<string, Direction>, { d_model }: ModelMap): void {
  for (const [path, { vector }] of directions) {
    if (vector.length !== d_model) {
      throw invalid(
        path,
        `the direction has ${vector.length} entries; allowed: ${d_model} (the model's width)`,
      );
    }
  }
}

/**
 * Reads a `.safetensors` file: one float32 tensor named "direction", [d_model], of unit length; metadata
 * `norm` and `layer` where it was recorded.
 *
 * @throws SparkablateError input_missing, config_invalid.
 */
export function readDirection(path: string): Direction {
  const file = fileBytes(path);
  const { header, data } = split(path, file);
  const { __metadata__: metadata = {}, ...tensors } = header;
  const names = Object.keys(tensors);
  if (names.length !== 1 || names[0] !== TENSOR) {
    throw invalid(
      path,
      `holds ${names.length === 0 ? "no tensor" : names.slice(0, 5).join(", ")}; allowed: one tensor named "${TENSOR}"`,
    );
  }
  const vector = readVector(path, tensors[TENSOR], data);
  return checked(path, vector, {
    layer: readLayer(path, property(metadata, "layer")),
    norm: readNorm(path, property(metadata, "norm")),
  });
}

/** A direction as `readDirection` reads it back. */
export function directionBytes({ vector }: Direction, metadata: Record<string, string>): Uint8Array {
  const data = bytesOf(vector);
  const tensor = { dtype: "F32", shape: [vector.length], data_offsets: [0, data.length] };
  const json = Buffer.from(JSON.stringify({ __metadata__: metadata, [TENSOR]: tensor }));
  // Padded with spaces, so that the tensor is aligned for whoever maps the file.
  const header = Buffer.alloc(Math.ceil(json.length / LENGTH_BYTES) * LENGTH_BYTES, " ");
  json.copy(header);
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, data]);
}

function fileBytes(path: string): Buffer {
  const { bytes, more } = readHead(path, "the direction file", MAX_PAYLOAD_BYTES);
  if (!more) return bytes;
  throw invalid(
    path,
    `more than ${MAX_PAYLOAD_BYTES} bytes are too many for a direction; allowed: up to ${MAX_PAYLOAD_BYTES}`,
  );
}

/** u64 length, that many bytes of JSON, the tensors' bytes. */
function split(path: string, file: Buffer): { header: Record<string, unknown>; data: Buffer } {
  if (file.length < LENGTH_BYTES) throw invalid(path, `${file.length} bytes are not a safetensors file`);
  const length = file.readBigUInt64LE();
  if (length > MAX_HEADER_BYTES || Number(length) > file.length - LENGTH_BYTES) {
    throw invalid(path, `its header claims ${length} bytes: it is truncated, or no safetensors file`);
  }
  const end = LENGTH_BYTES + Number(length);
  let header: unknown;
  try {
    header = JSON.parse(
      new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(LENGTH_BYTES, end)),
    ) as unknown;
  } catch (cause) {
    throw invalid(path, "its header is not JSON, so it is not a safetensors file", cause);
  }
  if (!isRecord(header))
    throw invalid(path, "its header is not a JSON object, so it is not a safetensors file");
  return { header, data: file.subarray(end) };
}

function readVector(path: string, described: unknown, data: Buffer): Float32Array {
  const dtype = property(described, "dtype");
  if (dtype !== "F32") throw invalid(path, `the direction is ${shown(dtype)}; allowed: F32`);
  const shape = property(described, "shape");
  const width: unknown = Array.isArray(shape) && shape.length === 1 ? shape[0] : undefined;
  if (!isCount(width) || width === 0) {
    throw invalid(path, `the direction has the shape ${shown(shape)}; allowed: [d_model]`);
  }
  const bytes = width * Float32Array.BYTES_PER_ELEMENT;
  const offsets = property(described, "data_offsets");
  if (JSON.stringify(offsets) !== JSON.stringify([0, bytes]) || data.length !== bytes) {
    throw invalid(
      path,
      `holds ${data.length} bytes at offsets ${shown(offsets)} where ${width} float32 take ${bytes}: it is truncated or damaged`,
    );
  }
  // Copied, so that it is aligned for float32.
  return new Float32Array(new Uint8Array(data).buffer);
}

function readLayer(path: string, written: unknown): number | null {
  if (written === undefined) return null;
  if (typeof written === "string" && /^\d{1,6}$/.test(written)) return Number(written);
  throw invalid(path, `metadata layer is ${shown(written)}; allowed: a layer number`);
}

function readNorm(path: string, written: unknown): number {
  if (written === undefined) return 1;
  const norm = typeof written === "string" && written.trim() !== "" ? Number(written) : Number.NaN;
  if (Number.isFinite(norm) && norm > 0) return norm;
  throw invalid(path, `metadata norm is ${shown(written)}; allowed: a positive number`);
}

async function unpickle(path: string, pickle: Uint8Array, client: Client): Promise<Direction> {
  try {
    const { result, payload } = await client.call("read_direction", {}, { payload: pickle });
    return checked(path, new Float32Array(new Uint8Array(payload).buffer), result);
  } catch (error) {
    if (error instanceof SparkablateError && error.code === "config_invalid") {
      throw new SparkablateError(error.code, `${path}: ${error.message}`, {
        detail: error.detail,
        cause: error,
      });
    }
    throw error;
  }
}

function checked(
  path: string,
  vector: Float32Array,
  { layer, norm }: Pick<Direction, "layer" | "norm">,
): Direction {
  if (!vector.every(Number.isFinite)) throw invalid(path, "the direction holds NaN or infinite values");
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  if (Math.abs(length - 1) > UNIT_TOLERANCE) {
    throw invalid(
      path,
      `the direction's length is ${Number(length.toPrecision(6))}; allowed: 1 within ${UNIT_TOLERANCE}: divide it by its length, and record that as metadata norm`,
    );
  }
  return { vector, sha256: sha256(bytesOf(vector)), layer, norm };
}

/** A vector is named by its bytes alone, so two files that differ in the norm only cannot be told apart. */
function requireOneNorm(directions: ReadonlyMap<string, Direction>): void {
  const seen = new Map<string, { path: string; norm: number }>();
  for (const [path, { sha256, norm }] of directions) {
    const before = seen.get(sha256);
    if (before !== undefined && before.norm !== norm) {
      throw invalid(
        path,
        `is the same vector as ${before.path}, with the norm ${norm} instead of ${before.norm}: keep one of them, and scale it with coefficient`,
      );
    }
    seen.set(sha256, { path, norm });
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** An own property, so that a file cannot reach what every object inherits. */
const property = (value: unknown, name: string): unknown =>
  isRecord(value) && Object.hasOwn(value, name) ? value[name] : undefined;

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

const shown = (value: unknown): string =>
  value === undefined ? "absent" : JSON.stringify(value).slice(0, 80);

const invalid = (path: string, message: string, cause?: unknown): SparkablateError =>
  new SparkablateError("config_invalid", `${path}: ${message}`, { cause });
