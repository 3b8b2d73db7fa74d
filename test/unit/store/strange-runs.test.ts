/** What lies under the name of a run's database and is none: refused by name, with one code in both languages. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it } from "vitest";
import { packageRoot, resolveEnvironment, workerDirectory } from "../../../src/environment/environment.ts";
import { SparkablateError } from "../../../src/errors.ts";
import { RunDirectory, readRun } from "../../../src/store/run-directory.ts";
import { databasePath } from "../../../src/store/sqlite.ts";
import { scratch } from "../../fixtures/harness.ts";
import { begin, conditionsOf, measured } from "./run.ts";

function finished(): string {
  const path = scratch();
  const run = RunDirectory.open(path, false);
  begin(run.store, conditionsOf(3), 4);
  for (const condition of [0, 1, 2]) run.store.record(measured(condition, [0, 1, 2, 3]));
  run.store.finish("2026-11-24T00:00:00.000Z");
  run.project();
  run.close();
  return path;
}

interface Strange {
  readonly code: string;
  /** @param sound the database of a finished run. */
  make(path: string, sound: string): void;
}

const made = (version: number, ...statements: readonly string[]): Strange => ({
  code: "store_corrupt",
  make(path: string): void {
    const database = new Database(path);
    for (const sql of statements) database.exec(sql);
    database.pragma(`user_version = ${version}`);
    database.close();
  },
});
const holding = (bytes: (sound: Buffer) => string | Uint8Array, code = "store_corrupt"): Strange => ({
  code,
  make: (path, sound) => writeFileSync(path, bytes(readFileSync(sound))),
});
const linked = (target: (sound: string) => string): Strange => ({
  code: "not_ours",
  make: (path, sound) => symlinkSync(target(sound), path),
});
/** A sound database, and something else in the place of what SQLite keeps beside it. */
const beside = (suffix: string, make: (path: string) => void): Strange => ({
  code: "not_ours",
  make(path, sound): void {
    copyFileSync(sound, path);
    make(`${path}${suffix}`);
  },
});
const pipe = (path: string): void => void execFileSync("mkfifo", [path]);
const socket = (path: string): void =>
  void execFileSync(resolveEnvironment().python, [
    "-c",
    "import os, socket, sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX).bind('results.sqlite')",
    join(path, ".."),
  ]);

const STRANGE: Readonly<Record<string, Strange>> = {
  pipe: { code: "not_ours", make: pipe },
  socket: { code: "not_ours", make: socket },
  directory: { code: "not_ours", make: (path) => mkdirSync(path) },
  device: linked(() => "/dev/zero"),
  "link-to-nowhere": linked(() => "nowhere"),
  "link-to-itself": linked(() => "results.sqlite"),
  "link-to-a-run": linked((sound) => sound),
  "log-is-a-pipe": beside("-wal", pipe),
  "log-is-a-directory": beside("-wal", (path) => mkdirSync(path)),
  "index-is-a-pipe": beside("-shm", pipe),
  "journal-of-another-program": beside("-journal", (path) => writeFileSync(path, randomBytes(512))),
  empty: holding(() => "", "input_missing"),
  text: holding(() => "no database\n".repeat(1_000)),
  encrypted: holding((sound) => sound.map((byte) => byte ^ 0x5a)),
  garbage: holding(() => randomBytes(1 << 14)),
  "header-alone": holding((sound) => sound.subarray(0, 100)),
  "half-a-header": holding((sound) => sound.subarray(0, 50)),
  "no-tables": made(0, "CREATE TABLE gone(a)", "DROP TABLE gone"),
  ...Object.fromEntries(
    [0, 1, 2, 3].flatMap((version) => [
      [`people-${version}`, made(version, "CREATE TABLE people(name)", "INSERT INTO people VALUES ('x')")],
      [`run-${version}`, made(version, "CREATE TABLE run(a, b)", "INSERT INTO run VALUES (1, 2)")],
      [
        `columns-${version}`,
        made(version, "CREATE TABLE run(run_id, identity, model, facts, notices, finished_at)"),
      ],
      [`view-${version}`, made(version, "CREATE VIEW run AS SELECT '{}' AS facts, NULL AS finished_at")],
      [
        `checksum-${version}`,
        made(version, "CREATE TABLE checksum(a)", "INSERT INTO checksum VALUES (1)", "CREATE TABLE run(a)"),
      ],
    ]),
  ),
};
// A database without a table is that of a run that was stopped early.
const expected = (name: string): string =>
  name === "no-tables" ? "input_missing" : (STRANGE[name]?.code ?? "");

function codeOf(work: () => unknown): string {
  try {
    work();
    return "read";
  } catch (error) {
    if (!(error instanceof SparkablateError)) throw error;
    return error.code;
  }
}

/** Of `sparkablate.results.load`, each in turn. */
function inPython(directories: readonly string[]): string[] {
  const script = join(packageRoot(), "test", "fixtures", "read_runs.py");
  const env = { ...process.env, PYTHONPATH: workerDirectory() };
  const input = directories.join("\n");
  // What hangs is ended here.
  const text = execFileSync(resolveEnvironment().python, [script], { env, input, timeout: 60_000 });
  return text.toString().trim().split("\n");
}

describe("a run directory whose database is none", () => {
  function places(): { name: string; directory: string }[] {
    const [root, sound] = [scratch(), databasePath(finished())];
    return Object.entries(STRANGE).map(([name, { make }]) => {
      const directory = join(root, name);
      mkdirSync(directory);
      make(databasePath(directory), sound);
      return { name, directory };
    });
  }

  it("is refused with the same code by the command line's reader and by pandas'", () => {
    const made = places();
    const codes = Object.fromEntries(made.map(({ name }) => [name, expected(name)]));
    const read = made.map(({ name, directory }) => [name, codeOf(() => readRun(directory))]);
    expect(Object.fromEntries(read)).toEqual(codes);
    const loaded = inPython(made.map(({ directory }) => directory));
    expect(Object.fromEntries(made.map(({ name }, at) => [name, loaded[at]]))).toEqual(codes);
  });

  it("is named, and neither changed nor hung on by a run that would go on in it", () => {
    for (const { name, directory } of places()) {
      if (expected(name) === "input_missing") continue;
      const code = codeOf(() => RunDirectory.open(directory, false).close());
      expect([name, code]).toEqual([name, expected(name)]);
      expect(() => readRun(directory)).toThrow(join(directory, "results.sqlite"));
      expect(existsSync(join(directory, "run.lock"))).toBe(false);
    }
  });
});

describe("a run directory that is none", () => {
  it("is input_missing in both languages, whatever the path is", () => {
    const root = scratch();
    const at = (name: string): string => join(root, name);
    writeFileSync(at("file"), "");
    pipe(at("pipe"));
    symlinkSync("loop", at("loop"));
    mkdirSync(at("nothing"));
    const paths = ["file", "pipe", "loop", "nothing", "missing", "x".repeat(300), "file/below"].map(at);
    expect(paths.map((path) => codeOf(() => readRun(path)))).toEqual(paths.map(() => "input_missing"));
    expect(inPython(paths)).toEqual(paths.map(() => "input_missing"));
  });
});
