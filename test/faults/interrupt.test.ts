/** Ctrl-C at the moments at which nothing is ready yet, and workers that never become ready. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import {
  cli,
  processesOf,
  scratch,
  startWorker,
  sweepFile,
  table,
  tinyModel,
  until,
  workersOf,
} from "../fixtures/harness.ts";

/** A command whose launcher stays beside it, as under Node 20. */
const launched = (args: readonly string[], mark: string) =>
  cli(args, {
    mark,
    env: { NODE_OPTIONS: `--require=${join(packageRoot(), "test", "fixtures", "no-execve.cjs")}` },
  });

const starting = (mark: string) => until(() => workersOf(mark)[0], 120, "a worker starts");

describe("while the worker starts, Ctrl-C ends", { timeout: 240_000 }, () => {
  const edit = ["-m", tinyModel(), "--kind", "mlp", "--layer", "1"];
  it.each([
    ["compare", (_: string) => [...edit, "--prompt", "x"]],
    ["inspect", (_: string) => ["-m", tinyModel()]],
    ["init", (out: string) => ["-m", tinyModel(), "-o", out]],
    ["bake", (out: string) => [...edit, "--out", out]],
    ["run", (out: string) => ["-c", sweepFile(scratch(), { model: tinyModel(), output: `${out}-run` })]],
  ] as const)("%s: 130, nothing is written, nothing runs on", async (command, args) => {
    const directory = scratch();
    const out = join(directory, "out");
    const running = cli([command, ...args(out)], { mark: directory });
    const worker = await starting(directory);
    running.kill("SIGINT");
    const { exitCode, stdout, stderr } = await running;
    expect(exitCode, String(stderr)).toBe(130);
    expect(stdout).toBe("");
    expect(existsSync(out)).toBe(false);
    expect(processesOf(directory)).toEqual([]);
    const socket = /ipc:\/\/(\S+)\/worker\.sock/.exec(worker.command)?.[1] ?? "";
    expect(socket).toMatch(/sparkablate-/);
    expect(existsSync(socket)).toBe(false);
  });
});

it("a worker that dies before it is ready is started once more", { timeout: 240_000 }, async () => {
  const directory = scratch();
  const running = cli(["inspect", "-m", tinyModel()], { mark: directory });
  const { pid } = await starting(directory);
  process.kill(pid, "SIGKILL");
  const { exitCode, stderr } = await running;
  expect(exitCode, String(stderr)).toBe(0);
  expect(stderr).toContain("ended by SIGKILL before it was ready; starting it once more");
});

it("TMPDIR that is too long, or is not there: the socket goes elsewhere, and nothing is left", {
  timeout: 240_000,
}, async () => {
  const directory = scratch();
  const long = join(directory, "d".repeat(90));
  mkdirSync(long);
  for (const TMPDIR of [long, join(directory, "missing")]) {
    const { exitCode, stderr } = await cli(["inspect", "-m", tinyModel()], { env: { TMPDIR } });
    expect(exitCode, String(stderr)).toBe(0);
  }
  expect(readdirSync(long)).toEqual([]);
});

it("an address at which nobody listens, or that is none, is said without a wait", {
  timeout: 60_000,
}, async () => {
  const directory = scratch();
  writeFileSync(join(directory, "p.txt"), "x\n");
  for (const [worker, exit, said] of [
    [`ipc://${directory}/none.sock`, 3, "there is no such socket"],
    ["tcp://127.0.0.1:9", 3, "no worker listens there"],
    ["localhost:5757", 2, "Give ipc:///path/of/a/socket, tcp://host:port, docker or spawn."],
  ] as const) {
    const { exitCode, stderr } = await cli(["inspect", "-m", tinyModel(), "--worker", worker]);
    expect(exitCode, String(stderr)).toBe(exit);
    expect(stderr).toContain(said);
  }
});

describe("where a launcher stands beside the command", { timeout: 240_000 }, () => {
  const sweep = (output: string): string =>
    sweepFile(scratch(), {
      model: tinyModel("--layers", "8", "--width", "256"),
      output,
      seqLen: 128,
      batches: 16,
      ablation: "sweep: heads",
    });
  const measuring = (output: string) =>
    until(() => existsSync(join(output, "results.jsonl")) && table(output).length > 1, 120, "it measures");

  it("SIGTERM to its own pid saves and ends; killed, it takes all with it", async () => {
    const output = join(scratch(), "out");
    const config = sweep(output);
    const asked = launched(["run", "-c", config, "--no-plots"], output);
    await measuring(output);
    asked.kill("SIGTERM");
    const { exitCode, stderr } = await asked;
    expect(exitCode).toBe(130);
    expect(stderr).toContain("what was measured is in");
    expect(processesOf(output)).toEqual([]);

    const killed = launched(["run", "-c", config, "--no-plots"], output);
    await starting(output);
    killed.kill("SIGKILL");
    await expect.poll(() => processesOf(output), { timeout: 20_000 }).toEqual([]);
  });
});

it("a killed 'worker' command leaves no worker behind", { timeout: 120_000 }, async () => {
  const directory = mkdtempSync(join(tmpdir(), "sparkablate-test-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const command = cli(["worker", "--bind", `ipc://${directory}/s`], { mark: directory });
  await starting(directory);
  command.kill("SIGKILL");
  await expect.poll(() => processesOf(directory), { timeout: 20_000 }).toEqual([]);
  expect(existsSync(directory)).toBe(true);
});

it("a reader that has seen enough ends nothing early", { timeout: 120_000 }, async () => {
  const directory = scratch();
  const worker = await startWorker(directory);
  const output = join(directory, "out");
  const config = sweepFile(directory, { model: tinyModel(), output, batches: 1 });
  const run = cli(["run", "-c", config, "--worker", worker, "--no-plots"], { buffer: false });
  run.stderr?.destroy();
  run.stdout?.destroy();
  expect((await run).exitCode).toBe(0);
  expect(table(output).every(({ status }) => status === "done")).toBe(true);
});
