/**
 * A checksum beside every table that decides a number: what is read is what was written, or is refused. SQLite has
 * none of its own: one flipped bit of a stored sum is another sum, in a file whose structure is whole.
 */
import { crc32 } from "node:zlib";
import type Database from "better-sqlite3";
import { SparkablateError } from "../errors.ts";

/** Table → whether the order of its rows counts; the others' rows are told apart by their keys. */
const TABLES = {
  run: false,
  block: false,
  item: false,
  condition: false,
  mean: false,
  measurement: false,
  attempt: true,
  token_block: false,
  token_text: false,
  token_nll: false,
  model_file: false,
  seen: false,
  result: true,
} as const;

export type CheckedTable = keyof typeof TABLES;

const NAMES = Object.keys(TABLES) as CheckedTable[];

/** Made by the first transaction of every database. */
const ALWAYS: readonly CheckedTable[] = [
  "run",
  "block",
  "item",
  "condition",
  "mean",
  "measurement",
  "attempt",
];

const MODULUS = 2 ** 48;

/** The checksum of a table's rows as they come; of an unordered table in whatever order. */
export class Tally {
  readonly #isOrdered: boolean;
  #rows = 0;
  #sum = 0;

  constructor(name: CheckedTable, at = { rows: 0, sum: 0 }) {
    this.#isOrdered = TABLES[name];
    this.#rows = at.rows;
    this.#sum = at.sum;
  }

  /** What a further row makes of it. */
  add(row: readonly unknown[]): void {
    this.#sum = (this.#sum + rowSum(this.#isOrdered ? [this.#rows, ...row] : row)) % MODULUS;
    this.#rows++;
  }

  /** @param definition SQL of the table. */
  define(definition: string): void {
    this.#sum = (this.#sum + rowSum([definition])) % MODULUS;
  }

  get state(): { rows: number; sum: number } {
    return { rows: this.#rows, sum: this.#sum };
  }
}

const VALUE_BYTES = 9;
const NULL = 0;
const FLOAT = 1;
const TEXT = 2;
const BLOB = 3;
/** Longer texts are taken by themselves: a config of thousands of targets would leave a buffer of 28 MB behind. */
const LONG_TEXT = 1 << 12;
let scratch = Buffer.alloc(1 << 15);

/** CRC-32 of the values, mixed: rows that exchange a value differ by the same bits, which a sum of CRCs may hide. */
function rowSum(row: readonly unknown[]): number {
  let at = 0;
  let hash = 0;
  for (const value of row) {
    if (typeof value === "string" && value.length > LONG_TEXT) {
      const bytes = Buffer.from(value);
      hash = crc32(scratch.subarray(0, startText(bytes.length, at)), hash);
      hash = crc32(bytes, hash);
      at = 0;
    } else at = encode(value, at);
  }
  hash = crc32(scratch.subarray(0, at), hash);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  return (hash ^ (hash >>> 13)) >>> 0;
}

/** A type, then a float64 little-endian: the number, or a length; then a text's bytes, or a blob's CRC-32. NULL: a type. */
function encode(value: unknown, at: number): number {
  const inside = at + VALUE_BYTES;
  const room = inside + (typeof value === "string" ? 3 * value.length : VALUE_BYTES);
  if (room > scratch.length) scratch = Buffer.concat([scratch], 2 * room);
  if (typeof value === "number" && !Number.isNaN(value)) {
    scratch[at] = FLOAT;
    // SQLite keeps no sign of zero.
    scratch.writeDoubleLE(value + 0, at + 1);
    return inside;
  }
  if (typeof value === "string") {
    const length = scratch.write(value, inside);
    return startText(length, at) + length;
  }
  if (value instanceof Uint8Array) {
    scratch[at] = BLOB;
    scratch.writeDoubleLE(value.length, at + 1);
    scratch.writeUInt32LE(crc32(value), inside);
    return inside + 4;
  }
  // What SQLite makes of a NaN too.
  scratch[at] = NULL;
  return at + 1;
}

/** What stands before a text of so many bytes. */
function startText(length: number, at: number): number {
  if (at + VALUE_BYTES > scratch.length) scratch = Buffer.concat([scratch], 2 * scratch.length);
  scratch[at] = TEXT;
  scratch.writeDoubleLE(length, at + 1);
  return at + VALUE_BYTES;
}

/** To be called in the transaction that changed the tables. */
export function writeChecksums(database: Database.Database, names: readonly CheckedTable[]): void {
  for (const name of names) writeChecksum(database, name, tallyOf(database, name));
}

/** Of all tables that are there. */
export function writeAllChecksums(database: Database.Database): void {
  const definitions = definitionsOf(database);
  writeChecksums(
    database,
    NAMES.filter((name) => definitions.has(name)),
  );
}

export function writeChecksum(database: Database.Database, name: CheckedTable, { state }: Tally): void {
  database.prepare("INSERT OR REPLACE INTO checksum VALUES (?, ?, ?)").run(name, state.rows, state.sum);
}

/** As it was written last, to be gone on with. */
export function storedTally(database: Database.Database, name: CheckedTable): Tally {
  const state = database.prepare("SELECT rows, sum FROM checksum WHERE name = ?").get(name);
  return new Tally(name, state as Tally["state"]);
}

/**
 * Throws `store_corrupt` for the first table that is not as it was written. The table `result` is passed over: it
 * is derived, and nothing here reads it.
 */
export function verifyChecksums(
  database: Database.Database,
  path: string,
  names: readonly CheckedTable[] = NAMES,
): void {
  const definitions = definitionsOf(database);
  const stored = new Map(
    (database.prepare("SELECT * FROM checksum").all() as ({ name: string } & Tally["state"])[]).map(
      ({ name, rows, sum }) => [name, { rows, sum }],
    ),
  );
  for (const name of names) {
    if (name === "result") continue;
    const then = stored.get(name);
    const isThere = definitions.has(name);
    if (then === undefined && !isThere && !ALWAYS.includes(name)) continue;
    const now = isThere ? tallyOf(database, name).state : undefined;
    if (then !== undefined && now?.rows === then.rows && now.sum === then.sum) continue;
    throw new SparkablateError(
      "store_corrupt",
      `${path} is damaged: its table ${name} does not match its checksum`,
    );
  }
}

function tallyOf(database: Database.Database, name: CheckedTable): Tally {
  const tally = new Tally(name);
  tally.define(definitionsOf(database).get(name) ?? "");
  const order = TABLES[name] ? " ORDER BY rowid" : "";
  for (const row of database.prepare(`SELECT * FROM ${name}${order}`).raw().iterate())
    tally.add(row as unknown[]);
  return tally;
}

/** Table → its SQL. */
function definitionsOf(database: Database.Database): Map<string, string> {
  const rows = database.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").raw().all();
  return new Map(rows as [string, string][]);
}
