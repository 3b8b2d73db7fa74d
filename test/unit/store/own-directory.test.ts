/** A run directory is one's own: what is there before, what is left after, and ways out of it that somebody laid. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it, onTestFinished } from "vitest";
import { loadConfig, resolvedYaml } from "../../../src/config/load.ts";
import { writePage, writePlots } from "../../../src/report/report.ts";
import { requireConfigKept } from "../../../src/store/claim.ts";
import { lockDirectory } from "../../../src/store/lock.ts";
import { writeAtomically } from "../../../src/store/projections.ts";
import { RunDirectory, readRun } from "../../../src/store/run-directory.ts";
import { databasePath, RunStore } from "../../../src/store/sqlite.ts";
import { scratch } from "../../fixtures/harness.ts";
import { begin, conditionsOf, measured } from "./run.ts";

const coded = (code: string, message?: RegExp) =>
  expect.objectContaining({ code, ...(message && { message: expect.stringMatching(message) }) });

function finish(path: string, config = "sweep: layers\n"): void {
  const run = RunDirectory.open(path, false);
  begin(run.store, conditionsOf(3), 4, [], config);
  for (const condition of [0, 1, 2]) run.store.record(measured(condition, [0, 1, 2, 3]));
  run.store.finish("2026-11-24T00:00:00.000Z");
  run.project();
  run.close();
}

const OWN = ["config.yaml", "results.jsonl", "results.sqlite", "summary.json"];

describe("what a run leaves", () => {
  it("is its files alone: no log, no lock, nothing temporary; also where it is opened again", () => {
    const path = scratch();
    finish(path);
    expect(readdirSync(path).sort()).toEqual(OWN);
    readRun(path);
    expect(readdirSync(path).sort()).toEqual(OWN);
    RunDirectory.open(path, false).close();
    expect(readdirSync(path).sort()).toEqual(OWN);
  });

  it("is read from results.sqlite alone, where nothing may be written", () => {
    const path = scratch();
    finish(path);
    const before = readRun(path);
    const alone = scratch();
    writeFileSync(databasePath(alone), readFileSync(databasePath(path)), { mode: 0o444 });
    chmodSync(alone, 0o555);
    onTestFinished(() => chmodSync(alone, 0o755));
    expect(readRun(alone)).toEqual(before);
    expect(readdirSync(alone)).toEqual(["results.sqlite"]);
  });

  it("a reader that is still there keeps the log, and nobody is hurt", () => {
    const path = scratch();
    const run = RunDirectory.open(path, false);
    begin(run.store, conditionsOf(2), 1);
    RunStore.reading(path, (reader) => {
      reader.run();
      run.store.record(measured(0, [0]));
      // Waits for the reader, as long as SQLite does.
      run.close();
    });
    expect(readRun(path).rows).toHaveLength(2);
    RunDirectory.open(path, false).close();
    expect(readdirSync(path)).toEqual(["results.sqlite"]);
  });

  it("the lock's file goes with the lock: one that held it by another name is not taken for the holder", () => {
    const path = scratch();
    const first = lockDirectory(path);
    // Somebody opens the file, and the holder ends before he locks it.
    const late = new Database(join(path, "run.lock"), { timeout: 0 });
    first.release();
    late.pragma("journal_mode = MEMORY");
    late.exec("BEGIN EXCLUSIVE");
    expect(existsSync(join(path, "run.lock"))).toBe(false);
    const second = lockDirectory(path);
    expect(() => lockDirectory(path)).toThrow(coded("run_locked", /is in use by pid/));
    late.close();
    second.release();
    expect(readdirSync(path)).toEqual([]);
  });
});

describe("a directory that is not ours", () => {
  it("is refused with what is in it; a checkpoint is named", () => {
    const path = scratch();
    for (const name of ["config.json", "model.safetensors", "tokenizer.json"])
      writeFileSync(join(path, name), "theirs");
    const refused = coded(
      "not_ours",
      /holds a model checkpoint: config\.json, model\.safetensors, tokenizer\.json$/,
    );
    for (const fresh of [false, true]) expect(() => RunDirectory.open(path, fresh)).toThrow(refused);
    expect(readdirSync(path).sort()).toEqual(["config.json", "model.safetensors", "tokenizer.json"]);
    expect(readdirSync(join(path, ".."))).not.toContain(expect.stringMatching(/^\d{4}-/));

    const notes = scratch();
    for (let note = 0; note < 9; note++) writeFileSync(join(notes, `note ${note}`), "mine");
    expect(() => RunDirectory.open(notes, false)).toThrow(coded("not_ours", /note 4 and 4 more$/));
    // A run's leavings without its database are somebody's too.
    const left = scratch();
    finish(left);
    rmSync(databasePath(left));
    expect(() => RunDirectory.open(left, false)).toThrow(coded("not_ours", /config\.yaml, results\.jsonl/));
  });

  it("what systems put everywhere, and notes beside a run, are in nobody's way", () => {
    const path = scratch();
    for (const name of [".DS_Store", ".gitkeep", "lost+found", ".nfs0000000000012ab"])
      writeFileSync(join(path, name), "");
    finish(path);
    writeFileSync(join(path, "my notes.txt"), "mine");
    RunDirectory.open(path, false).close();
    RunDirectory.open(path, true).close();
    expect(readdirSync(path)).toEqual(["results.sqlite"]);
  });

  it("behind a user's own link to another disk is one's own, with --fresh too", () => {
    const [there, here] = [join(scratch(), "big"), join(scratch(), "out")];
    mkdirSync(there);
    symlinkSync(there, here);
    finish(here);
    RunDirectory.open(here, true).close();
    expect(realpathSync(here)).toBe(realpathSync(there));
    expect(lstatSync(here).isSymbolicLink()).toBe(true);
    expect(readdirSync(there)).toEqual(["results.sqlite"]);
    const aside = readdirSync(join(there, "..")).filter((name) => name !== "big");
    expect(aside).toHaveLength(1);
    // What was moved aside is whole, and holds no lock.
    expect(readdirSync(join(there, "..", aside[0] as string)).sort()).toEqual(OWN);
  });
});

describe("the file given with -c", () => {
  function configIn(directory: string, name: string, output: string): string {
    const file = join(directory, name);
    const text = join(directory, "text.txt");
    writeFileSync(text, "a text");
    writeFileSync(
      file,
      `model: {name: "builtin:smollm2-135m"}\neval: {dataset: ${text}}\noutput: {dir: ${output}}\n`,
    );
    return file;
  }
  const kept = (file: string, fresh = false): void => requireConfigKept(file, loadConfig(file), fresh);

  it("is never written over, by whatever name it is reached", () => {
    const output = join(scratch(), "out");
    mkdirSync(output);
    const file = configIn(output, "config.yaml", output);
    const refused = coded("not_ours", /config\.yaml would be overwritten/);
    expect(() => kept(file)).toThrow(refused);
    const link = join(scratch(), "out");
    symlinkSync(output, link);
    expect(() => kept(configThrough(link))).toThrow(refused);
    const hard = join(scratch(), "mine.yaml");
    linkSync(file, hard);
    expect(() => kept(hard)).toThrow(coded("not_ours"));
    const soft = join(scratch(), "mine.yaml");
    symlinkSync(file, soft);
    expect(() => kept(soft)).toThrow(coded("not_ours"));
    expect(() => kept(configIn(output, "summary.json", output))).toThrow(coded("not_ours", /summary\.json/));

    const elsewhere = configIn(scratch(), "config.yaml", output);
    expect(() => kept(elsewhere)).not.toThrow();

    function configThrough(directory: string): string {
      return join(directory, "config.yaml");
    }
  });

  it("resumes its run where it is the run's own, unchanged", () => {
    const output = join(scratch(), "out");
    const config = loadConfig(configIn(scratch(), "config.yaml", output));
    finish(output, resolvedYaml(config));
    const own = join(output, "config.yaml");
    expect(() => kept(own)).not.toThrow();
    writeFileSync(own, readFileSync(own, "utf8").replace("seed: 0", "seed: 1"));
    expect(() => kept(own)).toThrow(coded("not_ours"));
    // Moved aside with the run it is not written over.
    expect(() => kept(own, true)).not.toThrow();
  });
});

describe("a run directory that somebody else made", () => {
  const NAMES = ["results.sqlite", "results.sqlite-wal", "results.sqlite-shm", "run.lock", "run.lock.owner"];

  it.each(NAMES)("%s is a link: refused, and what it leads to is untouched", (name) => {
    const path = scratch();
    finish(path);
    const outside = join(scratch(), "outside");
    writeFileSync(outside, readFileSync(databasePath(path)));
    rmSync(join(path, name), { force: true });
    symlinkSync(outside, join(path, name));
    const before = readFileSync(outside);
    for (const open of [
      () => readRun(path),
      () => RunDirectory.open(path, false),
      () => RunDirectory.open(path, true),
    ])
      expect(open).toThrow(coded("not_ours", /is a symbolic link/));
    expect(readFileSync(outside).equals(before)).toBe(true);
    expect(readdirSync(join(outside, ".."))).toEqual(["outside"]);
  });

  it.each(NAMES)("%s has a second name: not written to", (name) => {
    const path = scratch();
    finish(path);
    const outside = join(scratch(), "outside");
    if (!existsSync(join(path, name))) writeFileSync(join(path, name), "");
    linkSync(join(path, name), outside);
    const before = readFileSync(outside);
    expect(() => RunDirectory.open(path, false)).toThrow(coded("not_ours", /hard link/));
    expect(readFileSync(outside).equals(before)).toBe(true);
  });

  it("has a pipe, a directory or another's journal for its database: refused at once", () => {
    const path = scratch();
    execFileSync("mkfifo", [databasePath(path)]);
    expect(() => readRun(path)).toThrow(coded("not_ours", /is not a file/));
    rmSync(databasePath(path));
    mkdirSync(databasePath(path));
    expect(() => readRun(path)).toThrow(coded("not_ours", /is not a file/));
    const other = scratch();
    finish(other);
    writeFileSync(`${databasePath(other)}-journal`, "");
    expect(() => RunDirectory.open(other, false)).toThrow(coded("not_ours", /journal/));
  });

  it("has links for what is derived: they are replaced, and plots/ is not followed", async () => {
    const path = scratch();
    finish(path);
    const outside = scratch();
    const mine = join(outside, "mine");
    writeFileSync(mine, "mine");
    for (const name of ["config.yaml", "results.jsonl", "summary.json", "report.html"])
      for (const ending of ["", ".tmp"]) {
        rmSync(join(path, name + ending), { force: true });
        symlinkSync(mine, join(path, name + ending));
      }
    const run = RunDirectory.open(path, false);
    run.project();
    run.close();
    writePage(path, readRun(path), null, []);
    for (const name of OWN) expect(lstatSync(join(path, name)).isFile(), name).toBe(true);
    symlinkSync(outside, join(path, "plots"));
    await expect(writePlots(path, readRun(path), null)).rejects.toThrow(
      coded("not_ours", /plots is a symbolic link/),
    );
    expect(readdirSync(outside)).toEqual(["mine"]);
    expect(readFileSync(mine, "utf8")).toBe("mine");
  });

  it("has directories for what is derived: a coded error", () => {
    const path = scratch();
    finish(path);
    rmSync(join(path, "summary.json"));
    mkdirSync(join(path, "summary.json"));
    expect(() => writeAtomically(join(path, "summary.json"), ["{}"])).toThrow(coded("input_missing"));
    expect(readdirSync(path).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });
});

describe("a run directory that goes away while it is written to", () => {
  it.each([
    ["moved", (path: string) => renameSync(path, `${path}.moved`)],
    ["deleted", (path: string) => rmSync(path, { recursive: true })],
    [
      "replaced",
      (path: string) => {
        renameSync(path, `${path}.moved`);
        finish(path);
      },
    ],
  ])("%s: a coded error, and nothing is made where it was", (_, go) => {
    const path = join(scratch(), "out");
    const run = RunDirectory.open(path, false);
    begin(run.store, conditionsOf(2), 2);
    go(path);
    const there = existsSync(path) ? readdirSync(path).sort() : null;
    run.store.record(measured(0, [0]));
    const gone = coded("storage_failed", /was moved, deleted or replaced while the run was writing to it/);
    expect(() => run.store.flush()).toThrow(gone);
    expect(() => run.project()).toThrow(gone);
    expect(() => run.close()).toThrow(gone);
    expect(existsSync(path) ? readdirSync(path).sort() : null).toEqual(there);
    // What was measured went with it.
    if (existsSync(`${path}.moved`)) {
      const moved = RunStore.open(`${path}.moved`);
      expect([...moved.nllSums(0).keys()]).toEqual([0]);
      moved.close();
    }
  });
});
