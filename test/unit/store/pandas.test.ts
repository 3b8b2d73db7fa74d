/** `sparkablate.results.load`: SQLite's numbers, exactly, in pandas; and clear words where there are none. */
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it, onTestFinished } from "vitest";
import { packageRoot, resolveEnvironment, workerDirectory } from "../../../src/environment/environment.ts";
import { RunDirectory } from "../../../src/store/run-directory.ts";
import { databasePath } from "../../../src/store/sqlite.ts";
import { scratch } from "../../fixtures/harness.ts";
import { begin, conditionsOf, measured, planted, TOKENS } from "./run.ts";

const BLOCKS = Array.from({ length: 20 }, (_, block) => block);
const PAGE = join(packageRoot(), "docs", "statistics.md");

type Cells = Readonly<Record<string, unknown>>;
interface Frames {
  readonly rows: readonly Cells[];
  readonly blocks: readonly Cells[];
  readonly tokens: number;
  readonly items: readonly Cells[];
  readonly finished: string | null;
  readonly dtypes: Readonly<Record<string, string>>;
  readonly torch: boolean;
  readonly p: Readonly<Record<string, number>>;
  readonly code: string;
  readonly message: string;
}

function frames(directory: string, pages: readonly string[] = [], cwd = directory): Frames {
  const script = join(packageRoot(), "test", "fixtures", "frames.py");
  const env = { ...process.env, PYTHONPATH: workerDirectory() };
  const text = execFileSync(resolveEnvironment().python, [script, directory, ...pages], { cwd, env });
  return JSON.parse(text.toString());
}

/** Open for writing until the test ends: a sweep that is running. */
function plant(path: string): RunDirectory {
  const directory = RunDirectory.open(path, false);
  onTestFinished(() => directory.close());
  const { store } = directory;
  const nudged = { id: "null[0]", interventions: [], nudge: { layer: 0, seed: 0 } };
  begin(store, [...conditionsOf(5), nudged], BLOCKS.length);
  for (const condition of [0, 1, 2, 5]) store.record(measured(condition, BLOCKS, ["nll", "kl"]));
  store.record(measured(3, BLOCKS.slice(0, 3), ["nll", "kl"]));
  directory.project();
  return directory;
}

const select = (path: string, sql: string): Cells[] => {
  const database = new Database(databasePath(path), { readonly: true });
  try {
    return database.prepare(sql).all() as Cells[];
  } finally {
    database.close();
  }
};

describe("a run as pandas frames", () => {
  it("holds SQLite's numbers, to the last bit, while the sweep runs and when it is finished", () => {
    const path = join(scratch(), "results", "heads");
    const directory = plant(path);
    const running = frames(path);
    expect(running).toMatchObject({ finished: null, tokens: TOKENS, items: [], torch: false });
    expect(running.rows.map(({ status }) => status)).toEqual(["done", "done", "done", "partial", "pending"]);

    directory.store.finish("2026-11-25T00:00:00.000Z");
    const { rows, blocks, finished, dtypes, p } = frames(path, [PAGE], join(path, "..", ".."));
    expect(finished).toBe("2026-11-25T00:00:00.000Z");
    const numbers = (record: Cells): Cells =>
      Object.fromEntries(
        Object.entries(record).map(([key, value]) => [
          key,
          typeof value === "boolean" ? Number(value) : value,
        ]),
      );
    expect(rows.map(numbers)).toEqual(select(path, "SELECT * FROM result"));
    expect(dtypes).toMatchObject({ layer: "Int64", delta_nll: "float64", distinguishable: "boolean" });

    const effects = select(
      path,
      `SELECT nll.condition, nll.block, nll.delta AS delta_nll, kl.value AS kl FROM block_effect AS nll
       JOIN block_effect AS kl ON (kl.condition, kl.block, kl.metric) = (nll.condition, nll.block, 'kl')
       WHERE nll.metric = 'nll' AND nll.condition NOT LIKE 'null%'`,
    );
    const key = ({ condition, block }: Cells): string => `${condition} ${block}`;
    const byKey = new Map(effects.map((effect) => [key(effect), effect]));
    expect(blocks.length).toBe(3 * BLOCKS.length + 3);
    expect(effects.length).toBe(blocks.length);
    for (const block of blocks) {
      expect(block.delta_nll, key(block)).toBe(byKey.get(key(block))?.delta_nll);
      expect((block.kl_sum as number) / TOKENS, key(block)).toBe(byKey.get(key(block))?.kl);
    }
    expect(blocks.slice(0, BLOCKS.length).map(({ block }) => block)).toEqual(
      BLOCKS.map((ordinal) => 100 + 7 * ordinal),
    );

    // docs/statistics.md, with scipy.
    expect(Object.keys(p)).toEqual(["L1.layer.skip", "L2.layer.skip", "L3.layer.skip"]);
    for (const { condition, p: ours, flags } of rows) {
      if (ours === null) continue;
      const excess = (ours as number) - (p[condition as string] as number);
      // Of skewed differences it is corrected, upwards.
      if (String(flags).includes("skewed")) expect(excess).toBeGreaterThan(-1e-9);
      else expect(Math.abs(excess)).toBeLessThan(1e-9);
    }
  });

  it("holds a task's items, whose values are whole", () => {
    const path = join(scratch(), "task");
    const directory = RunDirectory.open(path, false);
    onTestFinished(() => directory.close());
    const items = BLOCKS.map((block) => ({
      prompt: `p${block}`,
      answer: " a",
      ...(block % 2 === 0 && { wrong: " é" }),
      tokens: block + 1,
    }));
    begin(directory.store, conditionsOf(2), BLOCKS.length, items);
    for (const condition of [0, 1]) directory.store.record(measured(condition, BLOCKS));
    directory.project();
    const run = frames(path);
    expect(run.tokens).toBe(1);
    expect(run.items).toEqual(
      items.map(({ wrong = null, ...item }, block) => ({ block: 100 + 7 * block, wrong, ...item })),
    );
    const values = select(path, "SELECT value, delta FROM block_effect WHERE condition = 'L1.layer.skip'");
    expect(values.map(({ value }) => value)).toEqual(BLOCKS.map((block) => planted(1, block)));
    const mine = run.blocks.filter(({ condition }) => condition === "L1.layer.skip");
    expect(mine.map(({ delta_nll }) => delta_nll)).toEqual(values.map(({ delta }) => delta));
    expect(run.rows[1]).toMatchObject({ blocks: 20, tokens: (20 * 21) / 2 });
  });

  it("is read as a killed controller left it: with a log that was never merged", () => {
    const path = scratch();
    plant(path);
    const killed = scratch();
    for (const end of ["", "-wal"])
      copyFileSync(`${databasePath(path)}${end}`, `${databasePath(killed)}${end}`);
    expect(frames(killed).blocks).toEqual(frames(path).blocks);
  });

  it("says what is wrong where there is no such run", () => {
    const path = scratch();
    const missing = join(path, "nowhere");
    expect(frames(missing, [], path)).toEqual({
      code: "input_missing",
      message: `${missing} is not a run directory: it has no results.sqlite`,
    });

    writeFileSync(databasePath(path), "");
    expect(frames(path)).toMatchObject({ code: "input_missing" });
    writeFileSync(databasePath(path), "This is a letter, and a long one. ".repeat(100));
    expect(frames(path)).toMatchObject({ code: "store_corrupt" });
    expect(readFileSync(databasePath(path), "utf8")).toContain("This is a letter");

    for (const version of [0, 1, 2]) {
      const foreign = join(path, `foreign-${version}`);
      mkdirSync(foreign);
      const database = new Database(databasePath(foreign));
      database.exec(`CREATE TABLE run (facts TEXT); PRAGMA user_version = ${version}`);
      database.close();
      expect(frames(foreign), `version ${version}`).toMatchObject({ code: "store_corrupt" });
    }
  });

  it("refuses a database that lost its end, and one of a run that never began", () => {
    const path = scratch();
    plant(path).close();
    truncateSync(databasePath(path), 8192);
    expect(frames(path)).toMatchObject({ code: "store_corrupt" });

    const empty = scratch();
    RunDirectory.open(empty, false).close();
    expect(existsSync(databasePath(empty))).toBe(true);
    expect(frames(empty)).toMatchObject({
      code: "input_missing",
      message: expect.stringContaining("stopped before its first measurement"),
    });
  });
});
