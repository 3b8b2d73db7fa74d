/**
 * Run directories that 0.1.0 left (test/fixtures/runs-0.1.0): finished ones are reported with their numbers to the bit,
 * those cut in the middle are resumed to the table of the uninterrupted run. On a machine with other numerics the
 * resume is refused, with the keys that differ, and a pair that 0.1.0 makes here takes their place.
 */
import { execFileSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { rowRecord } from "../../src/results/layout.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { readTokenRuns } from "../../src/store/token-run.ts";
import { cli, scratch, startWorker, table } from "../fixtures/harness.ts";

const FIXTURES = join(packageRoot(), "test", "fixtures", "runs-0.1.0");
/** The last commit of 0.1.0. */
const SOURCES = "c9552b0ac78e9b394ed4bf1a99e6792001063f6f";
/** Columns that say what the numbers mean, and may learn; all others of a row are measured. */
const JUDGEMENTS = new Set(["p", "q", "distinguishable", "flags", "seconds"]);

type Columns = Record<string, unknown>;

const measured = (rows: readonly object[]): Columns[] =>
  rows.map((row) => Object.fromEntries(Object.entries(row).filter(([column]) => !JUDGEMENTS.has(column))));

/** The rows with the columns that the older ones have. */
const asOf = (older: readonly Columns[], rows: readonly Columns[]): Columns[] =>
  rows.map((row, at) =>
    Object.fromEntries(Object.keys(older[at] ?? {}).map((column) => [column, row[column]])),
  );

const names = (kind: "runs" | "cut"): string[] => readdirSync(join(FIXTURES, kind)).sort();

/** All that the runs need, in a place where they may be written to. */
function copied(from = FIXTURES): string {
  const directory = scratch();
  cpSync(from, directory, { recursive: true });
  return directory;
}

describe("what 0.1.0 finished", () => {
  it.each(names("runs"))("%s has the same numbers", (name) => {
    const directory = join(copied(), "runs", name);
    const before = measured(table(directory));
    expect(before.length).toBeGreaterThan(4);
    const now = measured(readRun(directory).rows.map((row) => rowRecord(row)));
    expect(asOf(before, now)).toEqual(before);
  });

  it("is reported by the command line, and its values by token are read", { timeout: 60_000 }, async () => {
    const directory = join(copied(), "runs", "tokens");
    const { exitCode, stdout, stderr } = await cli(["report", directory, "--format", "json", "--no-plots"]);
    expect(exitCode, String(stderr)).toBe(0);
    const before = measured(table(directory));
    const { rows } = JSON.parse(String(stdout)) as { rows: Columns[] };
    // The report has them in the order of the ranking.
    const place = new Map(before.map(({ condition }, at) => [condition, at]));
    const inOrder = rows.sort((a, b) => Number(place.get(a.condition)) - Number(place.get(b.condition)));
    expect(asOf(before, measured(inOrder))).toEqual(before);
    expect(readTokenRuns(directory).map(({ condition }) => condition)).toEqual(["L1.head[2].mean"]);
  });
});

describe("what 0.1.0 finished, run again", () => {
  it("is loaded once, since 0.1.0 stored no files, and after that recognised without a worker", {
    timeout: 300_000,
  }, async ({ skip }) => {
    const place = copied();
    const run = join(place, "runs", "layers");
    const before = measured(table(run));
    const again = async (...more: string[]) =>
      await cli(["run", "-c", join("configs", "layers.yaml"), "--json", "--no-plots", ...more], {
        cwd: place,
      });
    const first = await again();
    if (first.exitCode === 2) {
      expect(String(first.stderr)).toContain("belongs to another run");
      const keys = [...String(first.stderr).matchAll(/^ {2}(\S.*?): .* there, .* now$/gm)].map(
        ([, key]) => key,
      );
      expect(keys.filter((key) => !key?.startsWith("numerics."))).toEqual([]);
      return skip(`other numerics: ${keys.join(", ")}`);
    }
    expect(first.exitCode, String(first.stderr)).toBe(0);
    expect(asOf(before, measured(table(run)))).toEqual(before);
    // An address at which nobody listens: a worker that was asked for would be missed.
    const second = await again("--worker", `ipc://${join(place, "none.sock")}`);
    expect(second.exitCode, String(second.stderr)).toBe(0);
    expect(String(second.stderr)).toContain("already finished");
    expect(JSON.parse(String(second.stdout)).model_checked).toBe(true);
    expect(asOf(before, measured(table(run)))).toEqual(before);
  });
});

describe("what was cut in the middle", () => {
  it("is resumed to the table of the uninterrupted run", { timeout: 900_000 }, async ({ skip }) => {
    const worker = await startWorker(scratch());
    let place = copied();
    const refused = await resume(place, "layers", worker);
    if (refused !== null) {
      const keys = [...refused.matchAll(/^ {2}(\S.*?): .* there, .* now$/gm)].map(([, key = ""]) => key);
      expect(keys.length, refused).toBeGreaterThan(0);
      expect(keys.filter((key) => !key.startsWith("numerics."))).toEqual([]);
      const made = madeAnew();
      if (made === null) return skip(`other numerics (${keys.join(", ")}), and 0.1.0 is not in this clone`);
      place = made;
      expect(await resume(place, "layers", worker)).toBeNull();
    }
    for (const name of names("cut")) {
      if (name !== "layers") expect(await resume(place, name, worker)).toBeNull();
      const whole = measured(table(join(place, "whole", name)));
      expect(asOf(whole, measured(table(join(place, "runs", name)))), name).toEqual(whole);
    }
  });
});

/** Puts the cut run in the finished one's place, which goes to `whole`; null, or why it cannot be resumed here. */
async function resume(place: string, name: string, worker: string): Promise<string | null> {
  const run = join(place, "runs", name);
  cpSync(run, join(place, "whole", name), { recursive: true });
  rmSync(run, { recursive: true });
  cpSync(join(place, "cut", name), run, { recursive: true });
  const before = measured(readRun(run).rows);
  expect(before.length).toBeGreaterThan(0);
  const config = join("configs", `${name}.yaml`);
  const { exitCode, stderr } = await cli(["run", "-c", config, "--worker", worker, "-q", "--no-plots"], {
    cwd: place,
  });
  if (exitCode === 2 && String(stderr).includes("belongs to another run")) return String(stderr);
  expect(exitCode, `${name}: ${stderr}`).toBe(0);
  return null;
}

/** The same pairs by 0.1.0's own sources, on this machine; null where this clone does not have them. */
function madeAnew(): string | null {
  const root = packageRoot();
  const [checkout, out] = [scratch(), scratch()];
  try {
    execFileSync("git", ["rev-parse", "--verify", "-q", `${SOURCES}^{commit}`], { cwd: root });
  } catch {
    return null;
  }
  execFileSync("bash", ["-c", `git archive ${SOURCES} | tar -x -C "$0"`, checkout], { cwd: root });
  // Its pins are a part of ours: it runs in the environment that is here, which it finds by them.
  cpSync(join(root, "worker", "constraints.txt"), join(checkout, "worker", "constraints.txt"));
  symlinkSync(join(root, "node_modules"), join(checkout, "node_modules"));
  const node = (...args: string[]) => execFileSync(process.execPath, args, { cwd: checkout, stdio: "pipe" });
  node(join(root, "node_modules", "typescript-7", "bin", "tsc"), "-p", "tsconfig.build.json");
  node(join(FIXTURES, "make.ts"), checkout, out);
  return out;
}

it("the fixtures hold what their configs say", () => {
  expect(names("cut")).toEqual(
    readdirSync(join(FIXTURES, "configs"))
      .map((file) => file.replace(".yaml", ""))
      .sort(),
  );
  for (const name of names("cut")) {
    const whole = JSON.parse(readFileSync(join(FIXTURES, "runs", name, "summary.json"), "utf8"));
    const cut = JSON.parse(readFileSync(join(FIXTURES, "cut", name, "summary.json"), "utf8"));
    expect(whole.version).toBe("0.1.0");
    expect(whole.finished).not.toBeNull();
    expect(cut.finished).toBeNull();
  }
});
