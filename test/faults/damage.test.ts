/** A database that rots: whatever is damaged, what is read is what was written, or `store_corrupt`; never a traceback. */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { expect, it, onTestFinished } from "vitest";
import { packageRoot, resolveEnvironment, workerDirectory } from "../../src/environment/environment.ts";
import { SparkablateError } from "../../src/errors.ts";
import { readBlockRun } from "../../src/store/block-run.ts";
import { RunDirectory, readRun } from "../../src/store/run-directory.ts";
import { databasePath } from "../../src/store/sqlite.ts";
import { readTokenRuns } from "../../src/store/token-run.ts";
import { cli, scratch } from "../fixtures/harness.ts";
import { random, repeatable, rounds } from "../fixtures/rounds.ts";
import { begin, conditionsOf, measured, planted } from "../unit/store/run.ts";

const PAGE = 4096;
const BLOCKS = Array.from({ length: 12 }, (_, block) => block);
const CONDITIONS = 30;

/** A run with all that a run can hold: several attempts, flags, failures, null conditions, tokens. */
function plant(directory: string, upTo = CONDITIONS): RunDirectory {
  const run = RunDirectory.open(directory, false);
  const { store } = run;
  const nudged = { id: "null[0]", interventions: [], nudge: { layer: 0, seed: 0 } };
  begin(store, [...conditionsOf(CONDITIONS), nudged], BLOCKS.length);
  measure(run, 0, upTo);
  return run;
}

function measure({ store }: RunDirectory, from: number, to: number): void {
  for (let condition = from; condition < to; condition++) {
    const failed = condition % 7 === 6;
    const error = { code: "out_of_memory", message: "too little", detail: "Traceback" } as const;
    if (failed) store.record({ ...measured(condition, []), sums: {}, error });
    else
      for (const half of [BLOCKS.slice(0, 6), BLOCKS.slice(6)])
        store.record({ ...measured(condition, half, ["nll", "kl"]), flags: ["degraded"] });
    store.flush();
  }
}

function keepTokens({ store }: RunDirectory): void {
  const ids = Int32Array.of(5, 6, 7);
  // They add up to the sum: what one float32 does not hold of it, the next does.
  const halves = (sum: number) => Float32Array.of(sum, sum - Math.fround(sum));
  const values = [0, 1].flatMap((condition) =>
    BLOCKS.map((block) => ({ condition, block, nll: halves(planted(condition, block)) })),
  );
  store.tokens((tables) => {
    tables.keep(new Map(BLOCKS.map((block) => [block, { ids, first: 1 }])), values);
    tables.keepTexts(new Map([5, 6, 7].map((id) => [id, Buffer.from(`token ${id}`)])));
  });
}

type Damage = (bytes: Buffer, at: (kind: string, below: number) => number) => Buffer;

const DAMAGES: Readonly<Record<string, Damage>> = {
  "a bit": (bytes, at) => {
    const place = at("byte", bytes.length);
    bytes[place] = (bytes[place] as number) ^ (1 << at("bit", 8));
    return bytes;
  },
  "a byte": (bytes, at) => {
    bytes[at("byte", bytes.length)] = at("value", 256);
    return bytes;
  },
  "ten bytes": (bytes, at) => {
    for (let one = 0; one < 10; one++) bytes[at(`byte ${one}`, bytes.length)] = at(`value ${one}`, 256);
    return bytes;
  },
  "a stretch of noise": (bytes, at) => {
    const from = at("from", bytes.length);
    const to = Math.min(bytes.length, from + 1 + at("length", 600));
    for (let place = from; place < to; place++) bytes[place] = at(`value ${place}`, 256);
    return bytes;
  },
  "a sector of zeros": (bytes, at) => {
    const from = 512 * at("sector", Math.ceil(bytes.length / 512));
    return bytes.fill(0, from, Math.min(bytes.length, from + 512));
  },
  "a page of zeros": (bytes, at) => {
    const from = PAGE * at("page", Math.ceil(bytes.length / PAGE));
    return bytes.fill(0, from, Math.min(bytes.length, from + PAGE));
  },
  "two pages that changed places": (bytes, at) => {
    const [one, other] = [at("one", bytes.length / PAGE), at("other", bytes.length / PAGE)].map(
      (page) => page * PAGE,
    );
    const kept = Buffer.from(bytes.subarray(one, (one as number) + PAGE));
    bytes.copy(bytes, one as number, other as number, (other as number) + PAGE);
    kept.copy(bytes, other as number);
    return bytes;
  },
  "a page written over another": (bytes, at) => {
    const [from = 0, to = 0] = [at("from", bytes.length / PAGE), at("to", bytes.length / PAGE)];
    bytes.copy(bytes, to * PAGE, from * PAGE, (from + 1) * PAGE);
    return bytes;
  },
  "a lost end": (bytes, at) => bytes.subarray(0, 1 + at("length", bytes.length - 1)),
  "a lost end at a page": (bytes, at) => bytes.subarray(0, PAGE * (1 + at("pages", bytes.length / PAGE - 1))),
};
const KINDS = Object.keys(DAMAGES);

function damaged(bytes: Buffer, round: number, label: string): Buffer {
  const kind = KINDS[round % KINDS.length] as string;
  const draw = (what: string, below: number): number =>
    Math.floor(random(`${label} ${kind} ${what}`, round) * Math.floor(below));
  return (DAMAGES[kind] as Damage)(Buffer.from(bytes), draw);
}

/** As text with every digit, or the error's code. What is no coded error is thrown on. */
function outcome(read: () => unknown): string {
  try {
    return JSON.stringify(read(), (_, value) => {
      if (value instanceof Map) return [...value];
      return ArrayBuffer.isView(value) ? [...new Float64Array(value as Float64Array)] : value;
    });
  } catch (error) {
    if (error instanceof SparkablateError) return error.code;
    throw error;
  }
}

/** All that a resumed run takes from the store. */
function resumed(directory: string): unknown {
  const run = RunDirectory.open(directory, false);
  try {
    const sums: unknown[] = [];
    run.store.forEachSum((...sum) => sums.push(sum));
    return [run.store.run(), run.store.means(), sums, run.store.failures(), run.store.blocks("evaluation")];
  } finally {
    run.close();
  }
}

const READERS: readonly [string, (directory: string) => unknown][] = [
  ["report", readRun],
  ["comparison", readBlockRun],
  ["tokens", readTokenRuns],
  ["resume", resumed],
];

function inPython(directories: readonly string[]): string[] {
  const script = join(packageRoot(), "test", "fixtures", "read_runs.py");
  const env = { ...process.env, PYTHONPATH: workerDirectory() };
  const input = directories.join("\n");
  return execFileSync(resolveEnvironment().python, [script], { input, env }).toString().trim().split("\n");
}

it(`a finished run: the old numbers or store_corrupt, in both languages ${repeatable}`, {
  timeout: 600_000,
}, async () => {
  const whole = scratch();
  const run = plant(whole);
  run.store.record(measured(0, BLOCKS, ["nll", "kl"]));
  keepTokens(run);
  run.store.finish("2026-11-24T00:00:00.000Z");
  run.project();
  run.close();
  const bytes = readFileSync(databasePath(whole));
  const right = new Map(READERS.map(([name, read]) => [name, outcome(() => read(whole))]));
  for (const [name, text] of right) expect(text.length, name).toBeGreaterThan(500);
  const [inFrames] = inPython([whole]);
  expect(inFrames).toMatch(/^[0-9a-f]{64}$/);

  const parent = scratch();
  const count = rounds(60);
  const seen = { corrupt: 0, same: 0 };
  const directories = Array.from({ length: count }, (_, round) => join(parent, String(round)));
  for (const [round, directory] of directories.entries()) {
    mkdirSync(directory);
    const now = damaged(bytes, round, "finished");
    for (const [name, read] of READERS) {
      writeFileSync(databasePath(directory), now);
      const found = outcome(() => read(directory));
      if (found === "store_corrupt") seen.corrupt++;
      else {
        seen.same++;
        expect(found, `${name}, round ${round}: ${KINDS[round % KINDS.length]}`).toBe(right.get(name));
      }
    }
    writeFileSync(databasePath(directory), now);
  }
  const found = inPython(directories);
  expect(found).toHaveLength(count);
  for (const [round, one] of found.entries())
    expect([inFrames, "store_corrupt"], `Python, round ${round}: ${KINDS[round % KINDS.length]}`).toContain(
      one,
    );
  console.log(`${count} damages: ${seen.corrupt} readings refused, ${seen.same} as before`);
  expect(seen.corrupt).toBeGreaterThan(count);

  // The command itself: exit code 3 and no traceback.
  const bad = found.indexOf("store_corrupt");
  const { exitCode, stderr } = await cli(["report", directories[bad] as string, "--no-plots"]);
  expect(stderr).toContain("error (store_corrupt): ");
  expect(stderr).not.toMatch(/\n\s+at /);
  expect(exitCode).toBe(3);
});

it(`a killed run, its log too: store_corrupt, or what was measured, as far as it is left ${repeatable}`, {
  timeout: 600_000,
}, () => {
  const whole = scratch();
  const run = plant(whole, 12);
  onTestFinished(() => run.close());
  // Some of it is merged, some is in the log alone, and some of the log is of before.
  const merger = new Database(databasePath(whole));
  merger.pragma("wal_checkpoint(PASSIVE)");
  merger.close();
  measure(run, 12, CONDITIONS);
  const parts = ["", "-wal"].map((end) => readFileSync(databasePath(whole) + end));
  expect(parts[1]?.length).toBeGreaterThan(10 * PAGE);

  const count = rounds(20);
  let refused = 0;
  for (let round = 0; round < count; round++) {
    const directory = scratch();
    for (const [at, bytes] of parts.entries())
      writeFileSync(
        databasePath(directory) + ["", "-wal"][at],
        at === (round % 3 === 0 ? 0 : 1) ? damaged(bytes, round, "killed") : bytes,
      );
    const name = `round ${round}: ${KINDS[round % KINDS.length]}`;
    for (const read of [readBlockRun, (path: string) => resumedSums(path)]) {
      try {
        const { sums } = read(directory);
        for (const [id, { blocks, nll }] of sums) {
          const condition = id === "baseline" ? 0 : Number(/^L(\d+)/.exec(id)?.[1]);
          for (const [at, block] of blocks.entries())
            expect(nll[at], `${name}: ${id}, ${block}`).toBe(planted(condition, block));
        }
      } catch (error) {
        if (!(error instanceof SparkablateError)) throw error;
        // A log that lost its beginning is that of a run that was killed before it began.
        expect(["store_corrupt", "input_missing"], `${name}: ${error.message}`).toContain(error.code);
        refused++;
      }
    }
  }
  console.log(`${count} damages: ${refused} of ${2 * count} readings refused`);
});

/** After a writer has opened it. */
function resumedSums(directory: string): ReturnType<typeof readBlockRun> {
  RunDirectory.open(directory, false).close();
  return readBlockRun(directory);
}

it(`a run of 0.1.0, which has no checksums: never a traceback ${repeatable}`, {
  timeout: 600_000,
}, () => {
  const whole = scratch();
  plant(whole).close();
  strip(whole);
  expect(readRun(whole).rows).toHaveLength(CONDITIONS);
  const bytes = readFileSync(databasePath(whole));
  for (let round = 0; round < rounds(20); round++) {
    const directory = scratch();
    for (const [, read] of READERS) {
      writeFileSync(databasePath(directory), damaged(bytes, round, "unchecked"));
      outcome(() => read(directory));
    }
    expect(existsSync(`${databasePath(directory)}-journal`)).toBe(false);
  }
  // Resumed, it has them: what rots from then on is seen.
  RunDirectory.open(whole, false).close();
  const checked = scratch();
  copyFileSync(databasePath(whole), databasePath(checked));
  const database = new Database(databasePath(checked));
  database.exec("UPDATE measurement SET sum = sum + 1 WHERE condition = 3 AND block = 5");
  database.close();
  expect(() => readRun(checked)).toThrow(/its table measurement does not match its checksum/);
});

function strip(directory: string): void {
  const database = new Database(databasePath(directory));
  database.exec("DROP TABLE checksum; PRAGMA user_version = 1");
  database.pragma("journal_mode = WAL");
  database.close();
}
