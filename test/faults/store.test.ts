/** What can happen to a run directory: a second writer, a full disk, a hundred thousand conditions. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { execa } from "execa";
import { expect, it, onTestFinished } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { writeChecksums } from "../../src/store/checksums.ts";
import { RunDirectory } from "../../src/store/run-directory.ts";
import { databasePath } from "../../src/store/sqlite.ts";
import { cli, processesOf, scratch, sweepFile, table, tinyModel } from "../fixtures/harness.ts";
import { needing } from "../fixtures/require.ts";
import { isLong } from "../fixtures/rounds.ts";
import { begin, conditionsOf } from "../unit/store/run.ts";

const fixture = (name: string): string => join(packageRoot(), "test", "fixtures", name);

/** A process that holds the directory, or says why it may not. */
async function hold(directory: string): Promise<{ said: string; kill: () => Promise<void>; pid: number }> {
  const child = execa(process.execPath, [fixture("hold.ts"), directory], { reject: false });
  onTestFinished(() => void child.kill("SIGKILL"));
  const { value } = await child.iterable()[Symbol.asyncIterator]().next();
  return {
    said: String(value),
    pid: child.pid ?? 0,
    async kill() {
      child.kill("SIGKILL");
      await child;
    },
  };
}

it("one writer: the second is told who holds the directory, a killed one leaves nothing behind", {
  timeout: 60_000,
}, async () => {
  const directory = scratch();
  const first = await hold(directory);
  expect(first.said).toBe("held");
  const second = await hold(directory);
  expect(second.said).toMatch(
    new RegExp(`^run_locked: ${directory} is in use by pid ${first.pid} on \\S+ since 20`),
  );
  await first.kill();
  const third = await hold(directory);
  expect(third.said).toBe("held");
  await third.kill();
  // Within one process too.
  const mine = RunDirectory.open(directory, false);
  expect(() => RunDirectory.open(directory, false)).toThrow(/is in use by pid/);
  expect(() => RunDirectory.open(directory, true)).toThrow(/is in use by pid/);
  mine.close();
  RunDirectory.open(directory, false).close();
});

it("the lock's file goes and comes, and never do two hold it", { timeout: 120_000 }, async () => {
  const directory = scratch();
  const runs = Array.from({ length: 3 }, () =>
    execa(process.execPath, [fixture("take-turns.ts"), directory, "300"]),
  );
  for (const { stdout } of await Promise.all(runs)) expect(stdout).toBe("0");
  expect(readdirSync(directory)).toEqual([]);
});

const isRoot = (): boolean => process.getuid?.() === 0;

needing("root", isRoot, "only root may mount a disk of 1 MiB")(
  "a full disk: exit 3, what was acknowledged is there, and with more room the same command finishes",
  {
    timeout: 900_000,
  },
  async () => {
    const directory = scratch();
    const disk = join(directory, "disk");
    mkdirSync(disk);
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]);
    onTestFinished(() => void execFileSync("umount", ["-l", disk]));
    const output = join(disk, "out");
    const model = tinyModel("--layers", "8", "--width", "256");
    const sweep = { model, seqLen: 16, batches: 64, ablation: "sweep: heads" };
    const config = sweepFile(directory, { ...sweep, output });
    const args = ["run", "-c", config, "-q", "--no-plots"];

    const sums = (): Map<string, number> => {
      const database = new Database(databasePath(output), { readonly: true });
      const rows = database.prepare("SELECT condition, block, metric, sum FROM measurement").raw().all();
      expect(database.pragma("integrity_check", { simple: true })).toBe("ok");
      database.close();
      return new Map(
        (rows as [number, number, string, number][]).map(([c, b, m, sum]) => [`${c} ${b} ${m}`, sum]),
      );
    };
    const full = await cli(args, { mark: output });
    expect(full.stderr).toContain("error (disk_full)");
    expect(full.stderr).toContain("Free some space and run the same command again");
    expect(full.exitCode, String(full.stderr)).toBe(3);
    expect(processesOf(output)).toEqual([]);
    const kept = sums();
    console.log(`the disk of 1 MiB was full after ${kept.size} measurements`);
    expect(kept.size).toBeGreaterThan(100);
    const expectKept = (): void => {
      const now = sums();
      for (const [which, sum] of kept) expect(now.get(which), which).toBe(sum);
    };

    // Still full: said again, and nothing is lost. One more batch's baseline may have found room.
    const again = await cli(args, { mark: output });
    expect(again.exitCode, String(again.stderr)).toBe(3);
    expectKept();

    execFileSync("mount", ["-o", "remount,size=64m", disk]);
    const finished = await cli(["run", "-c", config, "--no-plots"], { mark: output });
    expect(finished.exitCode, String(finished.stderr)).toBe(0);
    expect(finished.stderr).toContain("measurements are already stored");
    expectKept();

    const whole = join(directory, "whole");
    const run = await cli([
      "run",
      "-c",
      sweepFile(directory, { ...sweep, output: whole }),
      "-q",
      "--no-plots",
    ]);
    expect(run.exitCode, String(run.stderr)).toBe(0);
    expect(table(output)).toEqual(table(whole));
  },
);

/** A hundred thousand where rounds are asked for; what the scan of them may hold, in MiB. */
const [CONDITIONS, MOST_MIB] = isLong ? [100_000, 300] : [20_000, 200];

it(`${CONDITIONS} conditions: opened, scanned and written again in seconds and little memory`, {
  timeout: 300_000,
}, async () => {
  const [conditions, blocks] = [CONDITIONS, 16];
  const path = scratch();
  const directory = RunDirectory.open(path, false);
  begin(directory.store, conditionsOf(conditions), blocks);
  directory.close();
  const database = new Database(databasePath(path));
  database.exec(`
    INSERT INTO measurement
      SELECT condition.ordinal, block.ordinal, 'nll', 100 + sin(condition.ordinal * 1.7 + block.ordinal * 2.3)
      FROM condition JOIN block ORDER BY 1, 2;
    INSERT INTO attempt
      SELECT ordinal, 0, '2026-11-24T00:00:00Z', 0.25, '[]', NULL, NULL, NULL FROM condition;
  `);
  // As the store would have written them.
  database.transaction(() => writeChecksums(database, ["measurement", "attempt"]))();
  database.close();

  // A heap that is capped shows what is needed; without a cap V8 lets garbage lie.
  const script = [fixture("resume.ts"), path, `${conditions}`, `${blocks}`];
  const { stdout } = await execa(process.execPath, ["--max-old-space-size=200", ...script]);
  const took = JSON.parse(stdout);
  console.log(`${conditions} conditions × 16 blocks: ${stdout}`);
  expect(took.sums).toBe(conditions * blocks);
  // By hand 5 s; the limit here is ten times that.
  expect(took.scanSeconds).toBeLessThan(50);
  expect(took.scanPeakMiB).toBeLessThan(MOST_MIB);
  expect(readFileSync(join(path, "results.jsonl"), "utf8").trimEnd().split("\n")).toHaveLength(conditions);
  const reader = new Database(databasePath(path), { readonly: true });
  expect(reader.prepare("SELECT count(*) FROM result").pluck().get()).toBe(conditions);
  // One condition's effects come through the index, not through a scan of all.
  const began = performance.now();
  const effects = reader
    .prepare("SELECT count(*) FROM block_effect WHERE condition = 'L17777.layer.skip'")
    .pluck();
  expect(effects.get()).toBe(blocks);
  expect(performance.now() - began).toBeLessThan(500);
  reader.close();
});
