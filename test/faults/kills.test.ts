/** Whatever is killed, whenever: nothing measured is lost, nothing is measured twice, nothing is left running. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import Database from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  cli,
  processesOf,
  scratch,
  sweepFile,
  table,
  tinyModel,
  until,
  workersOf,
} from "../fixtures/harness.ts";
import { random, repeatable, rounds } from "../fixtures/rounds.ts";

/** Kills of each kind. */
const ROUNDS = rounds(2);
const SIZE = ["--layers", "8", "--width", "256"];
/** (condition, batch) pairs: 8 × 4 heads and the baseline, 8 batches. */
const TOTAL = 33 * 8;
const SWEEP = { model: tinyModel(...SIZE), seqLen: 128, batches: 8, ablation: "sweep: heads" };

const stored = (output: string): number => {
  try {
    const database = new Database(join(output, "results.sqlite"), { readonly: true, timeout: 100 });
    const count = database.prepare("SELECT count(*) FROM measurement").pluck().get() as number;
    database.close();
    return count;
  } catch {
    return 0; // not there yet
  }
};

/** Waits until more than `threshold` measurements are stored; fails with what the run said if it ends before. */
async function measuring(run: ReturnType<typeof cli>, output: string, threshold: number): Promise<void> {
  const ended = run.then(({ stderr }) => {
    throw new Error(`the run ended too early: ${stderr}`);
  });
  await Promise.race([ended, until(() => stored(output) > threshold, 120, "measurements")]);
  ended.catch(() => undefined);
}

/** Every attempt that is stored, in the order in which they were: none is to change, none to come twice. */
function attempts(output: string): string[] {
  if (stored(output) === 0) return [];
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  const rows = database.prepare("SELECT condition, batch, at FROM attempt ORDER BY rowid").raw().all();
  database.close();
  const pairs = (rows as [number, number, string][]).map(([condition, batch]) => `${condition} ${batch}`);
  expect(new Set(pairs).size, "no row twice").toBe(pairs.length);
  return rows.map((row) => (row as unknown[]).join(" "));
}

/** An uninterrupted run: its table, and how long it took from the worker's start to its end. */
let whole: ReturnType<typeof table>;
let windowMs: number;
const shared = mkdtempSync(join(tmpdir(), "sparkablate-test-"));
afterAll(() => rmSync(shared, { recursive: true }));

beforeAll(async () => {
  const output = join(shared, "whole");
  const run = cli(["run", "-c", sweepFile(shared, { ...SWEEP, output }), "-q", "--no-plots"], {
    mark: output,
  });
  await until(() => workersOf(output).length > 0, 60, "the worker starts");
  const began = performance.now();
  const { exitCode, stderr } = await run;
  windowMs = performance.now() - began;
  expect(exitCode, String(stderr)).toBe(0);
  whole = table(output);
}, 240_000);

/**
 * Kills what `chosen` finds; whether it was there. At a random measurement, and in every other round at a random instant
 * from the worker's start to the run's end: most of that time torch is being imported.
 */
async function strike(kind: string, round: number, output: string, chosen: () => { pid: number }[]) {
  await until(() => workersOf(output).length > 0, 60, "the worker starts");
  const at = random(kind, round);
  if (round % 2 === 0)
    await until(() => stored(output) > at * TOTAL || workersOf(output).length === 0, 120, "measurements");
  else await sleep(at * windowMs);
  const found = chosen();
  for (const { pid } of found) {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      expect((error as NodeJS.ErrnoException).code).toBe("ESRCH"); // it had ended
    }
  }
  return found.length > 0;
}

describe("kills", () => {
  it(`of the worker at ${ROUNDS} random instants: restarted, finished; the table is an uninterrupted run's ${repeatable}`, {
    timeout: 120_000 + ROUNDS * 120_000,
  }, async () => {
    const seen: string[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const directory = scratch();
      const output = join(directory, "out");
      const config = sweepFile(directory, { ...SWEEP, output });
      const run = cli(["run", "-c", config, "--no-plots"], { mark: output });
      await strike("worker", round, output, () => workersOf(output));
      const kept = attempts(output);
      const { exitCode, stderr } = await run;
      if (/ended by SIGKILL; starting again/.test(String(stderr))) {
        expect(stderr).toMatch(/worker: sparkablate worker: listening on/);
        seen.push(`restarted at ${kept.length}`);
      } else seen.push(exitCode === 0 ? "it had finished" : "it had not begun");
      if (seen.at(-1) === "it had not begun") {
        // Before it answered there is no run to save: said so, and the same command goes on.
        expect(exitCode, String(stderr)).toBe(3);
        expect(stderr).toContain("error (worker_died)");
        expect(kept).toEqual([]);
        const again = await cli(["run", "-c", config, "-q", "--no-plots"], { mark: output });
        expect(again.exitCode, String(again.stderr)).toBe(0);
      } else expect(exitCode, String(stderr)).toBe(0);
      expect(table(output)).toEqual(whole);
      expect(attempts(output).slice(0, kept.length)).toEqual(kept);
      expect(processesOf(output)).toEqual([]);
    }
    console.log(`SIGKILL of the worker: ${seen.join("; ")}`);
  });

  it(`of the controller at ${ROUNDS} random instants: no process is left, and a rerun asks for what is missing ${repeatable}`, {
    timeout: 120_000 + ROUNDS * 120_000,
  }, async () => {
    const seen: string[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const directory = scratch();
      const output = join(directory, "out");
      const config = sweepFile(directory, { ...SWEEP, output });
      const run = cli(["run", "-c", config, "-q", "--no-plots"], { mark: output });
      await strike("controller", round, output, () =>
        processesOf(output).filter(({ command }) => !command.includes("sparkablate.server")),
      );
      await run;
      // By hand it is well under five seconds; the limit here is ten times that.
      await until(() => processesOf(output).length === 0, 50, "the worker follows its controller");
      const kept = attempts(output);
      seen.push(`${kept.length} of ${TOTAL} kept`);
      const again = await cli(["run", "-c", config, "--no-plots"], { mark: output });
      expect(again.exitCode, String(again.stderr)).toBe(0);
      if (kept.length === TOTAL)
        expect(again.stderr).toMatch(new RegExp(`already finished|${TOTAL} of ${TOTAL} measurements`));
      else if (kept.length > 0)
        expect(again.stderr).toContain(`${kept.length} of ${TOTAL} measurements are already stored`);
      expect(table(output)).toEqual(whole);
      expect(attempts(output).slice(0, kept.length)).toEqual(kept);
    }
    console.log(`SIGKILL of the controller: ${seen.join("; ")}`);
  });

  it("Ctrl-C once saves and exits 130, and the same command goes on", { timeout: 300_000 }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { ...SWEEP, output });
    const run = cli(["run", "-c", config, "--no-plots"], { mark: output });
    await measuring(run, output, 100);
    run.kill("SIGINT");
    const { exitCode, stderr } = await run;
    expect(exitCode, String(stderr)).toBe(130);
    expect(stderr).toContain("finishing the current condition");
    expect(processesOf(output)).toEqual([]);
    const again = await cli(["run", "-c", config, "-q", "--no-plots"]);
    expect(again.exitCode, String(again.stderr)).toBe(0);
    expect(table(output)).toEqual(whole);
  });

  it("Ctrl-C before the first measurement stops at once", { timeout: 120_000 }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const run = cli(["run", "-c", sweepFile(directory, { ...SWEEP, output }), "--no-plots"], {
      mark: output,
    });
    await until(() => workersOf(output).length > 0, 60, "the worker starts");
    run.kill("SIGINT");
    const { exitCode, stderr } = await run;
    expect(exitCode, String(stderr)).toBe(130);
    expect(stderr).not.toContain("finishing the current condition");
    expect(processesOf(output)).toEqual([]);
    expect(stored(output)).toBe(0);
  });

  it("a worker that keeps dying ends the run with exit 3 and its last words, everything measured kept", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const run = cli(["run", "-c", sweepFile(directory, { ...SWEEP, output }), "--no-plots"], {
      mark: output,
    });
    await measuring(run, output, 100);
    const killer = setInterval(() => {
      for (const { pid } of workersOf(output)) process.kill(pid, "SIGKILL");
    }, 500);
    const { exitCode, stderr } = await run;
    clearInterval(killer);
    expect(exitCode, String(stderr)).toBe(3);
    expect(stderr).toContain("error (worker_died)");
    expect(stored(output)).toBeGreaterThan(100);
    expect(processesOf(output)).toEqual([]);
  });
});

describe("two controllers", () => {
  it("on one directory: the second exits 2 and names the first", { timeout: 120_000 }, async () => {
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { ...SWEEP, output });
    const first = cli(["run", "-c", config, "-q", "--no-plots"], { mark: output });
    await measuring(first, output, 0);
    const second = await cli(["run", "-c", config]);
    expect(second.exitCode).toBe(2);
    expect(second.stderr).toMatch(/is in use by pid \d+ on .* since/);
    first.kill("SIGTERM");
    expect((await first).exitCode).toBe(130);
  });
});
