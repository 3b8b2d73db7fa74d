/** What is kept a token, for the conditions that somebody asked for: tables of results.sqlite, made when they are needed. */
import type Database from "better-sqlite3";
import { writeChecksums } from "./checksums.ts";
import type { TokenBlock, TokenNll, TokenTables } from "./tokens.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS token_block (
  block INTEGER PRIMARY KEY,         -- ordinal of an evaluation block
  first INTEGER NOT NULL,            -- position of its first predicted token
  ids BLOB NOT NULL                  -- int32 little-endian, up to its last predicted token
);
CREATE TABLE IF NOT EXISTS token_text (
  id INTEGER PRIMARY KEY,            -- of the vocabulary
  bytes BLOB NOT NULL                -- what it stands for; not always whole characters
);
CREATE TABLE IF NOT EXISTS token_nll (
  condition INTEGER NOT NULL REFERENCES condition(ordinal),
  block INTEGER NOT NULL,
  nll BLOB NOT NULL,                 -- float32 little-endian: of each predicted token, nats
  PRIMARY KEY (condition, block)
) WITHOUT ROWID;
`;

export class SqliteTokenTables implements TokenTables {
  readonly #database: Database.Database;
  readonly #exist: boolean;

  constructor(database: Database.Database) {
    this.#database = database;
    if (!database.readonly) make(database);
    this.#exist =
      database.prepare("SELECT count(*) FROM sqlite_schema WHERE name = 'token_nll'").pluck().get() === 1;
  }

  keep(blocks: ReadonlyMap<number, TokenBlock>, values: readonly TokenNll[]): void {
    const addBlock = this.#database.prepare("INSERT OR REPLACE INTO token_block VALUES (?, ?, ?)");
    const addNll = this.#database.prepare("INSERT OR REPLACE INTO token_nll VALUES (?, ?, ?)");
    this.#database.transaction(() => {
      for (const [block, { first, ids }] of blocks) addBlock.run(block, first, bytesOf(ids));
      for (const { condition, block, nll } of values) addNll.run(condition, block, bytesOf(nll));
      writeChecksums(this.#database, ["token_block", "token_nll"]);
    })();
  }

  keepTexts(texts: ReadonlyMap<number, Uint8Array>): void {
    const add = this.#database.prepare("INSERT OR REPLACE INTO token_text VALUES (?, ?)");
    this.#database.transaction(() => {
      for (const [id, bytes] of texts) add.run(id, bytes);
      writeChecksums(this.#database, ["token_text"]);
    })();
  }

  conditions(): number[] {
    if (!this.#exist) return [];
    return this.#database
      .prepare("SELECT DISTINCT condition FROM token_nll ORDER BY condition")
      .pluck()
      .all() as number[];
  }

  nll(condition: number): Map<number, Float32Array> {
    if (!this.#exist) return new Map();
    const rows = this.#database
      .prepare("SELECT block, nll FROM token_nll WHERE condition = ? ORDER BY block")
      .raw()
      .all(condition) as [number, Uint8Array][];
    return new Map(rows.map(([block, bytes]) => [block, new Float32Array(copied(bytes))]));
  }

  blocks(): Map<number, TokenBlock> {
    if (!this.#exist) return new Map();
    const rows = this.#database
      .prepare("SELECT block, first, ids FROM token_block ORDER BY block")
      .raw()
      .all() as [number, number, Uint8Array][];
    return new Map(
      rows.map(([block, first, bytes]) => [block, { first, ids: new Int32Array(copied(bytes)) }]),
    );
  }

  texts(): Map<number, Uint8Array> {
    if (!this.#exist) return new Map();
    const rows = this.#database.prepare("SELECT id, bytes FROM token_text").raw().all();
    return new Map(rows as [number, Uint8Array][]);
  }
}

function make(database: Database.Database): void {
  database.transaction(() => {
    const count = database.prepare("SELECT count(*) FROM sqlite_schema WHERE type = 'table'").pluck();
    const before = count.get();
    database.exec(TABLES);
    if (count.get() !== before) writeChecksums(database, ["token_block", "token_text", "token_nll"]);
  })();
}

const bytesOf = (numbers: Int32Array | Float32Array): Uint8Array =>
  new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);

/** At an offset that its numbers may stand at. */
const copied = (bytes: Uint8Array): ArrayBuffer => new Uint8Array(bytes).buffer;
