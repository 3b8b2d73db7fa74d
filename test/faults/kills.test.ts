/** Whatever is killed, whenever: nothing measured is lost, nothing is measured twice, nothing is left running. */
import { join } from "node:path";
import Database from "better-sqlite3";
import { describe, expect, it } from "vitest";
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

/** Rounds of each kind; `ROUNDS=20 npm test -- test/faults/kills.test.ts` for more. */
const ROUNDS = Number(process.env.ROUNDS ?? 2);
const SIZE = ["--layers", "8", "--width", "256"];
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

const duplicates = (output: string): unknown =>
  new Database(join(output, "results.sqlite"), { readonly: true })
    .prepare("SELECT count(*) FROM (SELECT 1 FROM attempt GROUP BY condition, batch HAVING count(*) > 1)")
    .pluck()
    .get();

async function uninterrupted() {
  const directory = scratch();
  const output = join(directory, "whole");
  const run = await cli(["run", "-c", sweepFile(directory, { ...SWEEP, output }), "-q", "--no-plots"]);
  expect(run.exitCode, String(run.stderr)).toBe(0);
  return table(output);
}

describe("kills", () => {
  it("of the worker: reported from its exit, restarted, finished; the table is an uninterrupted run's", {
    timeout: 300_000,
  }, async () => {
    const whole = await uninterrupted();
    for (let round = 0; round < ROUNDS; round++) {
      const directory = scratch();
      const output = join(directory, "out");
      const run = cli(["run", "-c", sweepFile(directory, { ...SWEEP, output }), "--no-plots"], {
        mark: output,
      });
      const threshold = Math.floor(((round + 0.5) / ROUNDS) * 600);
      await measuring(run, output, threshold);
      const [worker] = workersOf(output);
      process.kill(worker?.pid ?? 0, "SIGKILL");
      const { exitCode, stderr } = await run;
      expect(exitCode, String(stderr)).toBe(0);
      expect(stderr).toMatch(/the worker \(pid \d+\) ended by SIGKILL; starting again/);
      expect(stderr).toMatch(/worker: sparkablate worker: listening on/);
      expect(table(output)).toEqual(whole);
      expect(duplicates(output)).toBe(0);
      expect(processesOf(output)).toEqual([]);
    }
  });

  it("of the controller: no process is left, and a rerun asks for what is missing", {
    timeout: 300_000,
  }, async () => {
    const whole = await uninterrupted();
    for (let round = 0; round < ROUNDS; round++) {
      const directory = scratch();
      const output = join(directory, "out");
      const config = sweepFile(directory, { ...SWEEP, output });
      const run = cli(["run", "-c", config, "-q", "--no-plots"], { mark: output });
      const threshold = Math.floor(((round + 0.5) / ROUNDS) * 600);
      await measuring(run, output, threshold);
      for (const { pid, command } of processesOf(output)) {
        if (!command.includes("sparkablate.server")) process.kill(pid, "SIGKILL");
      }
      await run;
      // By hand it is well under five seconds; the limit here is ten times that.
      await until(() => processesOf(output).length === 0, 50, "the worker follows its controller");
      const kept = stored(output);
      expect(kept).toBeGreaterThan(threshold);
      const again = await cli(["run", "-c", config, "--no-plots"], { mark: output });
      expect(again.exitCode, String(again.stderr)).toBe(0);
      expect(again.stderr).toContain("measurements are there already");
      expect(table(output)).toEqual(whole);
      expect(duplicates(output)).toBe(0);
    }
  });

  it("Ctrl-C once saves and exits 130, and the same command goes on", { timeout: 300_000 }, async () => {
    const whole = await uninterrupted();
    const directory = scratch();
    const output = join(directory, "out");
    const config = sweepFile(directory, { ...SWEEP, output });
    const run = cli(["run", "-c", config, "--no-plots"], { mark: output });
    await measuring(run, output, 100);
    run.kill("SIGINT");
    const { exitCode, stderr } = await run;
    expect(exitCode, String(stderr)).toBe(130);
    expect(stderr).toContain("finishing the condition in hand");
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
    expect(stderr).not.toContain("finishing the condition in hand");
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
