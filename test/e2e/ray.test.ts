/** The Ray engine on two nodes of one machine: the single worker's table, whatever is killed, added or odd. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cli, scratch, sweepFile, table, tinyModel, until } from "../fixtures/harness.ts";
import { actorsOf, type Cluster, startCluster, startRayWorker } from "../fixtures/ray.ts";

const MODEL = tinyModel("--layers", "8", "--width", "256");
/** 33 conditions on 8 batches. */
const SWEEP = { model: MODEL, seqLen: 96, batches: 8, ablation: "sweep: heads" };

const shared = mkdtempSync(join(tmpdir(), "sparkablate-test-"));
const MARK = shared;
let cluster: Cluster;
let worker: Awaited<ReturnType<typeof startRayWorker>>;
/** The table of one worker of one thread. */
let single: ReturnType<typeof table>;

beforeAll(async () => {
  const output = join(shared, "single");
  const whole = cli(["run", "-c", sweepFile(shared, { ...SWEEP, output }), "-q", "--no-plots"]);
  cluster = await startCluster(MARK);
  worker = await startRayWorker(shared, cluster.address, MARK);
  const { exitCode, stderr } = await whole;
  expect(exitCode, String(stderr)).toBe(0);
  single = table(output);
}, 240_000);

afterAll(async () => {
  await worker?.end();
  await cluster?.end();
  rmSync(shared, { recursive: true, force: true });
}, 60_000);

interface Attempt {
  readonly condition: number;
  readonly batch: number;
}

function attempts(output: string): Attempt[] {
  try {
    const database = new Database(join(output, "results.sqlite"), { readonly: true, timeout: 100 });
    const rows = database.prepare("SELECT condition, batch FROM attempt").all() as Attempt[];
    database.close();
    return rows;
  } catch {
    return []; // not there yet
  }
}

/** Starts `sparkablate run` on the Ray worker. */
function start(sweep: Parameters<typeof sweepFile>[1], flags: readonly string[] = []) {
  const config = sweepFile(scratch(), sweep);
  return cli(["run", "-c", config, "--worker", worker.address, "--no-plots", ...flags]);
}

function expectEachOnce(output: string): void {
  const pairs = attempts(output).map(({ condition, batch }) => `${condition} ${batch}`);
  expect(pairs.length).toBe(new Set(pairs).size);
}

describe("two nodes, an actor of one thread each", () => {
  it("both measure, and the table is the single worker's", { timeout: 240_000 }, async () => {
    const output = join(scratch(), "out");
    const run = start({ ...SWEEP, output });
    await until(() => attempts(output).length > 0, 120, "measurements");
    const before = actorsOf(MARK);
    expect(before).toHaveLength(2);
    const { exitCode, stderr } = await run;
    expect(exitCode, String(stderr)).toBe(0);
    const used = actorsOf(MARK).map(({ cpu }, index) => cpu - (before[index]?.cpu ?? 0));
    const all = used.reduce((sum, cpu) => sum + cpu);
    for (const cpu of used) expect(cpu, `of ${all} s`).toBeGreaterThan(all / 5);
    expect(table(output)).toEqual(single);
    expectEachOnce(output);
  });

  it("an actor and a whole node killed, a node added meanwhile and used: the same table, nothing twice", {
    timeout: 240_000,
  }, async () => {
    const output = join(scratch(), "out");
    const run = start({ ...SWEEP, output });
    await until(() => attempts(output).length > 20, 120, "measurements");
    const before = actorsOf(MARK);
    const [first] = before.filter(({ parent }) => parent !== cluster.second);
    process.kill(first?.pid as number, "SIGKILL");
    await cluster.killNode();
    await cluster.add();
    const { exitCode, stderr } = await run;
    expect(exitCode, String(stderr)).toBe(0);
    expect(table(output)).toEqual(single);
    expectEachOnce(output);
    // Both actors are other ones now, one of them on the node that was added; both had time to measure.
    const after = actorsOf(MARK);
    expect(after).toHaveLength(2);
    expect(new Set([...before, ...after].map(({ pid }) => pid)).size).toBe(4);
  });
});
