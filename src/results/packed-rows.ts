/** A run's rows in memory: each as its bytes, since a hundred thousand row objects would take several times as much. */
import { Packr } from "msgpackr";
import type { Row } from "./row.ts";

/** Rows that can be gone through any number of times, the baseline first: a list, or `PackedRows`. */
export interface Rows {
  readonly length: number;
  at(index: number): Row | undefined;
  values(): IteratorObject<Row>;
}

const CHUNK_BYTES = 1 << 20;

/** Takes rows one by one, and makes each anew whenever it is asked for. A 0 loses its sign, which no format shows. */
export class PackedRows implements Rows {
  /** The names of columns are written down once for all rows. */
  readonly #packr = new Packr({ structures: [] });
  readonly #chunks: Buffer[] = [];
  /** Where each row begins and ends, over chunks of `CHUNK_BYTES`; a larger one has a chunk to itself. */
  readonly #begins: number[] = [];
  readonly #ends: number[] = [];

  get length(): number {
    return this.#begins.length;
  }

  push(row: Row): void {
    const bytes = this.#packr.pack(row);
    let begin = this.#ends.at(-1) ?? 0;
    if (begin + bytes.length > this.#chunks.length * CHUNK_BYTES) {
      begin = this.#chunks.length * CHUNK_BYTES;
      this.#chunks.push(Buffer.allocUnsafeSlow(Math.max(CHUNK_BYTES, bytes.length)));
    }
    bytes.copy(this.#chunks.at(-1) as Buffer, begin % CHUNK_BYTES);
    this.#begins.push(begin);
    this.#ends.push(begin + bytes.length);
  }

  at(index: number): Row | undefined {
    const [begin, end] = [this.#begins[index], this.#ends[index]];
    if (begin === undefined || end === undefined) return undefined;
    const chunk = Math.floor(begin / CHUNK_BYTES);
    const offset = chunk * CHUNK_BYTES;
    return this.#packr.unpack(this.#chunks[chunk]?.subarray(begin - offset, end - offset) as Buffer);
  }

  *values(): Generator<Row> {
    for (let index = 0; index < this.length; index++) yield this.at(index) as Row;
  }
}
