/** SQLite, JSONL, JSON and CSV say the same to the last digit; what is torn is rebuilt. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it, onTestFinished } from "vitest";
import { toCsv, toJson } from "../../../src/report/formats.ts";
import { flatRecord } from "../../../src/results/layout.ts";
import type { Row } from "../../../src/results/row.ts";
import { hasFailures, RunDirectory, readRun } from "../../../src/store/run-directory.ts";
import { databasePath } from "../../../src/store/sqlite.ts";
import { scratch } from "../../fixtures/harness.ts";
import { begin, conditionsOf, measured, planted, TOKENS } from "./run.ts";

const BLOCKS = [0, 1, 2, 3, 4, 5, 6, 7];

/** A baseline, three measured conditions, one half measured, one failed, one that is still to come. */
function plant(): { path: string; directory: RunDirectory; database: Database.Database } {
  const path = scratch();
  const directory = RunDirectory.open(path, false);
  const { store } = directory;
  const conditions = conditionsOf(7);
  conditions[1] = {
    id: '=L1.head "x", y',
    interventions: [{ kind: "head", layer: 1, heads: [0, 3], mode: "zero", positions: "all" }],
  };
  begin(store, conditions, BLOCKS.length);
  for (const condition of [0, 1, 2, 3]) store.record(measured(condition, BLOCKS, ["nll", "kl"]));
  store.record({ ...measured(4, BLOCKS.slice(0, 3), ["nll", "kl"]), flags: ["degraded"] });
  const error = { code: "out_of_memory", message: "too little", detail: "" } as const;
  store.record({ ...measured(5, []), sums: {}, error });
  directory.project();
  const database = new Database(databasePath(path), { readonly: true });
  onTestFinished(() => {
    database.close();
    directory.close();
  });
  return { path, directory, database };
}

type Cells = Record<string, unknown>;

/** What a table cell and a JSON value have in common: booleans are numbers in SQLite. */
const plain = (record: Cells): Cells =>
  Object.fromEntries(
    Object.entries(record).map(([key, value]) => [key, typeof value === "boolean" ? Number(value) : value]),
  );

const jsonl = (path: string): Row[] =>
  readFileSync(join(path, "results.jsonl"), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

/** Interval columns of a JSON record laid out as in CSV and SQLite. */
function flattened(record: Cells): Cells {
  const flat: Cells = {};
  for (const [key, value] of Object.entries(record)) {
    if (key.endsWith("ci95"))
      [flat[`${key}_low`], flat[`${key}_high`]] = (value as [number, number] | null) ?? [null, null];
    else if (key === "heads") flat[key] = (value as number[] | null)?.join(" ") ?? null;
    else if (key === "flags") flat[key] = (value as string[]).join("; ");
    else if (key === "interventions") flat[key] = JSON.stringify(value);
    else flat[key] = value;
  }
  return flat;
}

describe("whether a condition failed", () => {
  const failing = (sums: readonly number[]): boolean => {
    const path = scratch();
    const directory = RunDirectory.open(path, false);
    begin(directory.store, conditionsOf(2), 2);
    directory.store.record(measured(0, [0, 1]));
    directory.store.record({ ...measured(1, [0, 1]), sums: { nll: Float64Array.from(sums) } });
    directory.close();
    expect(readRun(path).rows.some(({ status }) => status === "failed")).toBe(hasFailures(path));
    return hasFailures(path);
  };

  it("is known without the rows: from an attempt, and from what was measured", () => {
    expect(hasFailures(plant().path)).toBe(true);
    expect(failing([40, 41])).toBe(false);
    expect(failing([40, Number.POSITIVE_INFINITY])).toBe(true);
  });
});

describe("one run, four ways", () => {
  it("gives equal numbers in every digit", () => {
    const { path, database } = plant();
    const table = database.prepare("SELECT * FROM result").all() as Cells[];
    const { rows, facts } = readRun(path);
    expect(table).toHaveLength(7);
    const columns = Object.keys(table[0] as Cells);
    const complete = (record: Cells): Cells =>
      Object.fromEntries(columns.map((name) => [name, record[name] ?? null]));

    expect(table).toEqual(rows.map((row) => complete(plain(flatRecord(row)))));
    expect(table).toEqual(jsonl(path).map((row) => complete(plain(flattened(row as unknown as Cells)))));

    const byId = new Map(table.map((row) => [row.condition, row]));
    const json = JSON.parse(toJson(rows, facts, null)) as { rows: Cells[] };
    for (const row of json.rows) expect(complete(plain(flattened(row)))).toEqual(byId.get(row.condition));
    const [header = "", ...lines] = toCsv(rows, null).trimEnd().split("\r\n");
    expect(header.split(",")).toEqual(columns);
    for (const line of lines) {
      const cells = line.match(/("([^"]|"")*"|[^,]*)(,|$)/g)?.map((cell) => cell.replace(/,$/, "")) ?? [];
      const value = (name: string) => cells[columns.indexOf(name)] ?? "";
      const id = value("condition")
        .replace(/^"'?|"$/g, "")
        .replaceAll('""', '"');
      const row = byId.get(id) as Cells;
      for (const name of ["nll", "delta_nll", "se", "ci95_low", "ci95_high", "p", "q", "kl", "kl_ci95_low"])
        expect(value(name) === "" ? null : Number(value(name)), `${id} ${name}`).toBe(row[name]);
    }
  });

  it("has the types a person expects in the SQLite shell", () => {
    const { database } = plant();
    const types = database
      .prepare(
        "SELECT DISTINCT typeof(nll), typeof(p), typeof(blocks), typeof(distinguishable) FROM result WHERE status = 'done' AND kind <> 'baseline'",
      )
      .raw()
      .all();
    expect(types).toEqual([["real", "real", "integer", "integer"]]);
    expect(database.prepare("SELECT error FROM result WHERE status = 'failed'").pluck().get()).toBe(
      "out_of_memory",
    );
  });

  it("shows what the effects are made of", () => {
    const { database } = plant();
    const effects = database
      .prepare(
        "SELECT * FROM block_effect WHERE metric = 'nll' AND condition = 'L2.layer.skip' ORDER BY block",
      )
      .all();
    expect(effects).toEqual(
      BLOCKS.map((block) => ({
        condition: "L2.layer.skip",
        block: 100 + 7 * block,
        metric: "nll",
        value: planted(2, block) / TOKENS,
        delta: (planted(2, block) - planted(0, block)) / TOKENS,
      })),
    );
    expect(
      database
        .prepare(
          "SELECT count(*), count(delta), sum(delta <> 0) FROM block_effect WHERE condition = 'baseline'",
        )
        .raw()
        .get(),
    ).toEqual([16, 16, 0]);
    // The means of a row are the means of its blocks.
    const means = database
      .prepare(
        "SELECT condition, avg(delta) AS delta FROM block_effect WHERE metric = 'nll' GROUP BY condition",
      )
      .all() as { condition: string; delta: number }[];
    for (const { condition, delta } of means) {
      const stored = database
        .prepare("SELECT delta_nll FROM result WHERE condition = ?")
        .pluck()
        .get(condition);
      expect(delta).toBeCloseTo(stored as number, 13);
    }
  });

  it("follows when a metric's columns appear later", () => {
    const path = scratch();
    const directory = RunDirectory.open(path, false);
    onTestFinished(() => directory.close());
    begin(directory.store, conditionsOf(3), 2);
    directory.project();
    const columns = () => {
      const database = new Database(databasePath(path), { readonly: true });
      const names = database.prepare("SELECT name FROM pragma_table_info('result')").pluck().all();
      database.close();
      return names;
    };
    expect(columns()).not.toContain("kl");
    directory.store.record(measured(0, [0, 1], ["nll", "kl"]));
    directory.project();
    expect(columns()).toContain("kl_ci95_high");
    expect(columns().at(-1)).toBe("error");
  });
});

describe("derived files", () => {
  it.each(["results.jsonl", "summary.json", "config.yaml"])("%s is rebuilt when torn or missing", (name) => {
    const { path, directory } = plant();
    const file = join(path, name);
    const before = readFileSync(file, "utf8");
    writeFileSync(file, before.slice(0, before.length / 2));
    directory.project();
    expect(readFileSync(file, "utf8")).toBe(before);
    rmSync(file);
    directory.project();
    expect(readFileSync(file, "utf8")).toBe(before);
    expect(readdirSync(path).filter((entry) => entry.endsWith(".tmp"))).toEqual([]);
  });

  it("are not read by anybody: a report of a run whose files are torn is right", () => {
    const { path } = plant();
    const before = readRun(path);
    writeFileSync(join(path, "results.jsonl"), "{");
    writeFileSync(join(path, "summary.json"), "");
    expect(readRun(path)).toEqual(before);
  });

  it("a half-written temporary file of a killed process is in nobody's way", () => {
    const { path, directory } = plant();
    const before = readFileSync(join(path, "results.jsonl"), "utf8");
    directory.close();
    const dead = spawnSync(process.execPath, ["--version"]).pid;
    const random = "0123456789abcdef";
    mkdirSync(join(path, "plots"));
    const left = [
      "results.jsonl.tmp", // as 0.1.0 named it
      `summary.json.${dead}.${random}.tmp`,
      `report.html.${dead}.${random}.tmp`,
      `plots/ranking.png.${dead}.${random}.tmp`,
    ].map((name) => join(path, name));
    // A report is written without the run's lock; its file is whole in a moment.
    const inUse = [`report.html.${process.pid}.${random}.tmp`, `plots/mine.${dead}.tmp`].map((name) =>
      join(path, name),
    );
    for (const file of inUse) writeFileSync(file, "x");
    for (const file of left) writeFileSync(file, "x".repeat(1_000_000));
    const again = RunDirectory.open(path, false);
    onTestFinished(() => again.close());
    expect(left.filter((file) => existsSync(file))).toEqual([]);
    expect(inUse.filter((file) => !existsSync(file))).toEqual([]);
    again.project();
    expect(readFileSync(join(path, "results.jsonl"), "utf8")).toBe(before);
  });
});

it("--fresh moves a run aside, and an empty directory not", () => {
  const parent = scratch();
  const path = join(parent, "out");
  RunDirectory.open(path, true).close();
  expect(readdirSync(parent)).toEqual(["out"]);
  RunDirectory.open(path, true).close();
  expect(readdirSync(parent)).toHaveLength(2);
});
