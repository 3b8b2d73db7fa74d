/** The Ray engine on two nodes of one machine: the single worker's table, whatever is killed, added or odd. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import Database from "better-sqlite3";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
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
  worker = await startRayWorker(shared, ["--address", cluster.address], MARK);
  const { exitCode, stderr } = await whole;
  expect(exitCode, String(stderr)).toBe(0);
  single = table(output);
}, 240_000);

afterAll(async () => {
  await worker?.end();
  // The cluster is somebody else's; the actors are ours.
  await until(() => actorsOf(MARK).length === 0, 30, "the actors end with their worker");
  await cluster?.end();
  rmSync(shared, { recursive: true, force: true });
}, 120_000);

interface Sweep {
  readonly config: string;
  readonly output: string;
}

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

/** 127.0.0.0/8, ::1 and ::ffff:127.0.0.0/8 in the kernel's notation. */
const LOOPBACK = /^(0*|0{16}FFFF0000)[0-9A-F]{6}7F$|^0{24}01000000$/;

/** Local addresses of the TCP sockets on which these processes listen. */
function listening(pids: readonly number[]): string[] {
  const sockets = new Set(
    pids.flatMap((pid) => {
      const files = `/proc/${pid}/fd`;
      return readdirSync(files).map((file) => {
        try {
          return readlinkSync(join(files, file)).match(/^socket:\[(\d+)\]$/)?.[1];
        } catch {
          return undefined; // it was closed meanwhile
        }
      });
    }),
  );
  return ["tcp", "tcp6"].flatMap((table) =>
    readFileSync(`/proc/net/${table}`, "latin1")
      .trimEnd()
      .split("\n")
      .slice(1)
      .map((line) => line.trim().split(/\s+/))
      .filter((fields) => fields[3] === "0A" && sockets.has(fields[9]))
      .map((fields) => (fields[1] as string).split(":")[0] as string),
  );
}

function expectEachOnce(output: string): void {
  const pairs = attempts(output).map(({ condition, batch }) => `${condition} ${batch}`);
  expect(pairs.length).toBe(new Set(pairs).size);
}

describe("two nodes, an actor of one thread each", () => {
  it("both measure, and the table is the single worker's", { timeout: 480_000 }, async () => {
    const output = join(scratch(), "out");
    const run = start({ ...SWEEP, output });
    await until(() => attempts(output).length > 0, 300, "measurements");
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

  it("a task's answers, means, sources of other tokens and values by token are an actor's as a worker's", {
    timeout: 480_000,
  }, async () => {
    const task = join(packageRoot(), "configs", "tasks", "agreement.jsonl");
    const [here, there] = ["here", "there"].map((name) => {
      const directory = scratch();
      const config = join(directory, "task.yaml");
      writeFileSync(
        config,
        `model: {name: ${MODEL}, dtype: float32, threads: 1}
eval: {task: ${task}, batch_size: 4, max_batches: 5}
ablation: {sweep: mlp, mode: [zero, mean, resample], layers: [1, 2]}
output: {dir: ${join(directory, name)}}
`,
      );
      return { config, output: join(directory, name) };
    }) as [Sweep, Sweep];
    for (const [{ config }, flags] of [
      [here, []],
      [there, ["--worker", worker.address]],
    ] as const) {
      const { exitCode, stderr } = await cli(["run", "-c", config, "-q", "--no-plots", ...flags]);
      expect(exitCode, String(stderr)).toBe(0);
    }
    expect(table(there.output)).toEqual(table(here.output));
    // Refused where the values do not add up to the bits of the run.
    const tokens = ["--tokens", "L2.mlp.resample", "--json", "--worker", worker.address];
    const { exitCode, stdout, stderr } = await cli(["report", there.output, ...tokens]);
    expect(exitCode, String(stderr)).toBe(0);
    const row = table(there.output).find(({ condition }) => condition === "L2.mlp.resample");
    expect(JSON.parse(String(stdout)).tokens).toBe(row?.tokens);
  });

  it("an actor and a whole node killed, a node added meanwhile and used: the same table, nothing twice", {
    timeout: 480_000,
  }, async () => {
    const output = join(scratch(), "out");
    const run = start({ ...SWEEP, output });
    await until(() => attempts(output).length > 20, 300, "measurements");
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

it("a condition that kills its actor twice, alone in its slice, is failed, and the others finish", {
  timeout: 480_000,
}, async () => {
  const directory = scratch();
  const model = join(directory, "fatal");
  const { python } = resolveEnvironment();
  execFileSync(python, [join(packageRoot(), "test", "fixtures", "fatal_model.py"), tinyModel(), model]);
  const output = join(directory, "out");
  const targets = [0, 1, 2, 3].map((layer) => `{kind: head, layer: ${layer}, heads: [1]}`);
  const ablation = `sweep: custom\n  targets: [${targets.join(", ")}]`;
  const trust = ["--set", "model.trust_remote_code=true", "--trust-remote-code"];
  const { exitCode, stderr } = await start({ model, output, batches: 2, ablation }, trust);
  expect(exitCode, String(stderr)).toBe(1);
  const rows = table(output).map(({ condition, status, error, blocks }) => ({
    condition,
    status,
    error,
    blocks,
  }));
  const done = { status: "done", error: null, blocks: 8 };
  expect(rows).toHaveLength(5);
  for (const condition of ["baseline", "L1.head[1].zero", "L2.head[1].zero", "L3.head[1].zero"])
    expect(rows).toContainEqual({ condition, ...done });
  expect(rows).toContainEqual(
    expect.objectContaining({ condition: "L0.head[1].zero", status: "failed", error: "worker_crashed" }),
  );
  expectEachOnce(output);
});

it("actors that would not compute the same numbers are excluded, and named with what differs", {
  timeout: 480_000,
}, async () => {
  await cluster.add({ OMP_NUM_THREADS: "2" });
  // Kernels for any x86 processor, whose sums have other bits.
  const hasOthers = process.arch === "x64";
  if (hasOthers) await cluster.add({ ATEN_CPU_CAPABILITY: "default" });
  const expected = hasOthers ? 4 : 3;
  await until(() => actorsOf(MARK).length === expected, 300, "actors on the new nodes");
  const output = join(scratch(), "out");
  const sweep = { model: MODEL, output, batches: 2 };
  const { exitCode, stderr } = await start(sweep, ["--set", "model.threads=null"]);
  expect(exitCode, String(stderr)).toBe(0);
  const said = String(stderr).replaceAll(/\s+/g, " ");
  expect(said).toMatch(/actor \d on 127\.0\.0\.1 \(pid \d+\) is excluded, .* threads: 2 instead of 1/);
  if (hasOthers)
    expect(said).toMatch(/is excluded, .* cpu_capability: DEFAULT instead of AVX\d+, the baseline's losses/);
  expect(JSON.parse(readFileSync(join(output, "summary.json"), "utf8")).numerics).toMatchObject({
    threads: 1,
  });
});

it("without --address there is a cluster of this machine alone: on loopback, gone with its worker after SIGKILL", {
  timeout: 360_000,
}, async () => {
  const directory = scratch();
  await startRayWorker(directory, ["--actors", "1"], directory);
  const [python] = workersOf(directory);
  const children = processesOf(directory);
  expect(children.some(({ command }) => command.includes("raylet"))).toBe(true);
  const addresses = listening(children.map(({ pid }) => pid));
  expect(addresses.length).toBeGreaterThan(0);
  expect(addresses.filter((address) => !LOOPBACK.test(address))).toEqual([]);
  process.kill(python?.pid as number, "SIGKILL");
  await until(() => processesOf(directory).length === 0, 30, "Ray's processes end with the worker");
});
