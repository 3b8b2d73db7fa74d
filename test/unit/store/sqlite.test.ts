/** The database of a run: what is acknowledged stays, what contradicts is refused, what is broken is left alone. */
import { copyFileSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it, onTestFinished } from "vitest";
import type { Condition } from "../../../src/protocol/messages.ts";
import { RunDirectory, readRun } from "../../../src/store/run-directory.ts";
import { databasePath, RunStore } from "../../../src/store/sqlite.ts";
import { scratch } from "../../fixtures/harness.ts";
import { begin, conditionsOf, measured, planted } from "./run.ts";

const coded = (code: string, message?: RegExp) =>
  expect.objectContaining({ code, ...(message && { message: expect.stringMatching(message) }) });

function create(blocks = 4, conditions = 3): { directory: string; store: RunStore } {
  const directory = scratch();
  const store = RunStore.open(directory);
  onTestFinished(() => {
    try {
      store.close();
    } catch {
      // a test that ends with a store that cannot commit
    }
  });
  begin(store, conditionsOf(conditions), blocks);
  return { directory, store };
}

const sumsOf = (store: RunStore): [number, number, string, number][] => {
  const sums: [number, number, string, number][] = [];
  store.forEachSum((...sum) => sums.push(sum));
  return sums;
};

describe("measurements", () => {
  it("come back bit for bit, after flush in another connection", () => {
    const { directory, store } = create();
    store.record(measured(0, [0, 1, 2, 3], ["nll", "kl"]));
    const reader = RunStore.read(directory);
    onTestFinished(() => reader.close());
    expect(sumsOf(reader)).toEqual([]);
    store.flush();
    const expected = [0, 1, 2, 3].flatMap((block) => [
      [0, block, "kl", planted(0, block, 1)],
      [0, block, "nll", planted(0, block)],
    ]);
    expect(sumsOf(reader)).toEqual(expected);
  });

  it("are committed within a second or so by themselves", async () => {
    const { directory, store } = create();
    store.record(measured(0, [0]));
    store.record(measured(0, [1]));
    const reader = RunStore.read(directory);
    onTestFinished(() => reader.close());
    await expect.poll(() => sumsOf(reader).length, { timeout: 10_000 }).toBe(2);
  });

  it("may come twice with the same values", () => {
    const { store } = create();
    for (let round = 0; round < 2; round++) {
      store.record(measured(1, [0, 1]));
      store.flush();
    }
    store.record(measured(1, [0, 1, 2]));
    store.flush();
    expect(sumsOf(store)).toHaveLength(3);
  });

  it("with another value are refused, in the last bit too, and what is stored stays", () => {
    const { store } = create();
    store.record(measured(1, [0, 1]));
    store.flush();
    const again = measured(1, [0, 1]);
    const nll = again.sums.nll as Float64Array;
    nll[1] = (nll[1] as number) * (1 + Number.EPSILON);
    expect(() => store.record(again)).toThrow(coded("measurement_conflict", /condition 1, block 1, nll/));
    store.flush();
    expect(sumsOf(store)).toEqual([0, 1].map((block) => [1, block, "nll", planted(1, block)]));
  });

  it("that are no numbers, or too few, are refused", () => {
    const { store } = create();
    const bad = measured(1, [0, 1]);
    expect(() => store.record({ ...bad, sums: { nll: Float64Array.of(1, Number.NaN) } })).toThrow(
      coded("invalid_message"),
    );
    expect(() => store.record({ ...bad, sums: { nll: Float64Array.of(1) } })).toThrow(
      coded("invalid_message"),
    );
    store.record(measured(1, [0, 1]));
    store.flush();
    expect(sumsOf(store)).toHaveLength(2);
  });

  it("of a condition or block that the run does not have are refused", () => {
    const { store } = create();
    expect(() => store.record(measured(99, [0]))).toThrow(/FOREIGN KEY/);
  });

  it("that are refused take nothing with them: not what came before, and no part of their own", () => {
    const { directory, store } = create();
    store.record(measured(1, [1]));
    store.record(measured(2, [0]));
    const half = measured(1, [0, 1]);
    (half.sums.nll as Float64Array)[1] = 1;
    expect(() => store.record(half)).toThrow(coded("measurement_conflict", /condition 1, block 1, nll/));
    store.close();
    const reader = RunStore.read(directory);
    onTestFinished(() => reader.close());
    expect(sumsOf(reader).map((row) => (row as number[]).slice(0, 2))).toEqual([
      [1, 1],
      [2, 0],
    ]);
  });

  it("of null conditions are read apart from the edits'", () => {
    const directory = scratch();
    const store = RunStore.open(directory);
    onTestFinished(() => store.close());
    const [baseline, first, second] = conditionsOf(3) as [Condition, Condition, Condition];
    const nudged = (layer: number): Condition => ({
      id: `null ${layer}`,
      interventions: [],
      nudge: { layer, seed: 7 },
    });
    begin(store, [baseline, nudged(0), first, nudged(1), second], 2);
    for (let condition = 0; condition < 5; condition++) store.record(measured(condition, [0, 1]));
    store.flush();
    const read = (which: "edits" | "nulls") =>
      [...store.measurements(which)].map(({ condition, sums }) => [condition, [...(sums.nll ?? [])]]);
    const of = (condition: number) => [planted(condition, 0), planted(condition, 1)];
    expect(read("edits")).toEqual([
      [baseline, of(0)],
      [first, of(2)],
      [second, of(4)],
    ]);
    expect(read("nulls")).toEqual([
      [nudged(0), of(1)],
      [nudged(1), of(3)],
    ]);
  });

  it("keep failures apart: the last attempt decides", () => {
    const { store } = create();
    const error = { code: "out_of_memory", message: "too little", detail: "Traceback" } as const;
    const failed = (condition: number) => ({ ...measured(condition, []), sums: {}, error });
    store.record(failed(1));
    store.record(failed(2));
    store.record(measured(2, [0]));
    store.flush();
    expect([...store.failures()]).toEqual([[1, { code: "out_of_memory", message: "too little" }]]);
  });
});

describe("a database that is", () => {
  /** The database and its log; readers leave an empty log behind. */
  const whole = (directory: string): Buffer[] =>
    ["", "-wal"]
      .map((end) => databasePath(directory) + end)
      .filter((path) => existsSync(path) && statSync(path).size > 0)
      .map((path) => readFileSync(path));

  const equal = (left: readonly Buffer[], right: readonly Buffer[]): boolean =>
    Buffer.concat(left).equals(Buffer.concat(right));

  function planted200(): string {
    const { directory, store } = create(8, 200);
    for (let condition = 0; condition < 200; condition++)
      store.record(measured(condition, [0, 1, 2, 3, 4, 5, 6, 7]));
    store.close();
    return directory;
  }

  const damages: readonly [string, (path: string) => void, RegExp][] = [
    [
      "no database",
      (path) => writeFileSync(path, "a diary, not a database\n".repeat(500)),
      /not a readable database/,
    ],
    ["cut in the middle", (path) => truncateSync(path, Math.floor(readFileSync(path).length / 2)), /./],
    ["cut within a page", (path) => truncateSync(path, readFileSync(path).length - 100), /./],
    [
      "overwritten in the middle",
      (path) => {
        const bytes = readFileSync(path);
        bytes.fill(0xab, bytes.length >> 1, (bytes.length >> 1) + 5000);
        writeFileSync(path, bytes);
      },
      /./,
    ],
    [
      "of another version",
      (path) => {
        const database = new Database(path);
        database.pragma("user_version = 99");
        database.close();
      },
      /has format 99, this version reads 1 and 2/,
    ],
    [
      "somebody else's",
      (path) => {
        writeFileSync(path, "");
        const database = new Database(path);
        database.exec("CREATE TABLE photo (name TEXT)");
        database.close();
      },
      /has format 0/,
    ],
  ];

  it.each(damages)("%s: reported, and left byte for byte", (_, damage, message) => {
    const directory = planted200();
    damage(databasePath(directory));
    const before = whole(directory);
    for (const open of [
      () => RunStore.open(directory),
      () => RunStore.read(directory),
      () => RunDirectory.open(directory, false),
      () => readRun(directory),
    ]) {
      expect(open).toThrow(coded("store_corrupt", message));
    }
    expect(equal(whole(directory), before)).toBe(true);
    // The lock was given back each time, and --fresh moves the broken one aside.
    RunDirectory.open(directory, true).close();
  });

  it("of another make of this version: what differs is named, not hidden behind the closing", () => {
    const directory = planted200();
    const database = new Database(databasePath(directory));
    database.exec("ALTER TABLE condition DROP COLUMN nudge");
    database.close();
    expect(() => readRun(directory)).toThrow(
      coded("store_corrupt", /its table condition does not match its checksum/),
    );
  });

  it("damaged while its log is still to be merged: left byte for byte too", () => {
    const directory = planted200();
    const path = databasePath(directory);
    const store = RunStore.open(directory);
    store.finish("now");
    const copy = scratch();
    for (const end of ["", "-wal"]) copyFileSync(path + end, databasePath(copy) + end);
    store.close();
    const bytes = readFileSync(databasePath(copy));
    bytes.fill(0xab, bytes.length >> 1, (bytes.length >> 1) + 5000);
    writeFileSync(databasePath(copy), bytes);
    const before = whole(copy);
    expect(before).toHaveLength(2);
    expect(() => RunStore.open(copy)).toThrow(coded("store_corrupt"));
    expect(equal(whole(copy), before)).toBe(true);
  });

  it("empty, or was left before its tables were made: begun anew", () => {
    const directory = scratch();
    writeFileSync(databasePath(directory), "");
    expect(() => readRun(directory)).toThrow(coded("input_missing", /stopped before it began/));
    RunStore.open(directory).close();
    const other = scratch();
    const database = new Database(databasePath(other));
    database.pragma("journal_mode = WAL");
    database.close();
    const store = RunStore.open(other);
    begin(store, conditionsOf(2), 1);
    store.close();
    expect(readRun(other).rows).toHaveLength(2);
  });

  it("missing: named as such, and reading makes none", () => {
    const directory = scratch();
    expect(() => readRun(directory)).toThrow(coded("input_missing", /no results\.sqlite/));
    expect(existsSync(databasePath(directory))).toBe(false);
    expect(() => readRun(join(directory, "nowhere"))).toThrow(coded("input_missing"));
  });

  it("in a place that is no directory: named, with what to do", () => {
    const file = join(scratch(), "file");
    writeFileSync(file, "");
    expect(() => RunDirectory.open(file, false)).toThrow(coded("input_missing"));
    expect(() => RunDirectory.open(join(file, "below"), false)).toThrow(coded("input_missing"));
  });
});
