/** The worker at the default address: used where it is the same as one started here, else passed over with a reason. */

import { execFileSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  cpSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it, onTestFinished, vi } from "vitest";
import { resolveEnvironment, sparkablateHome } from "../../src/environment/environment.ts";
import { Client } from "../../src/link/client.ts";
import { defaultSocket, findWorker } from "../../src/link/found.ts";
import { differences } from "../../src/link/origin.ts";
import type { Origin, Result } from "../../src/protocol/messages.ts";
import {
  cli,
  LAUNCHER,
  linkedHome,
  scratch,
  sweepFile,
  table,
  tinyModel,
  until,
  workersOf,
} from "../fixtures/harness.ts";

/** A home of the test's own, with the environment that is there; this process stands in it too. */
function ownHome(): string {
  const home = linkedHome(scratch());
  vi.stubEnv("SPARKABLATE_HOME", home);
  onTestFinished(() => void vi.unstubAllEnvs());
  return home;
}

/** `sparkablate worker` as a person starts it. */
async function standingWorker(): Promise<{ said: () => string }> {
  const worker = execa(process.execPath, [LAUNCHER, "worker"], {
    reject: false,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  worker.stderr?.on("data", (chunk) => {
    said += chunk;
  });
  onTestFinished(async () => {
    worker.kill("SIGTERM");
    await worker;
  });
  await until(
    () => said.includes(`listening on ipc://${defaultSocket()}`),
    180,
    `the worker starts: ${said}`,
  );
  return { said: () => said };
}

/** What this process says of itself to a worker. */
async function greet(runId: string): Promise<{ client: Client; greeting: Result<"hello"> }> {
  const client = new Client(`ipc://${defaultSocket()}`, new Promise(() => undefined));
  onTestFinished(() => client.close());
  return { client, greeting: await client.hello(runId) };
}

it("uses the one that is the same, names what differs, and who holds it", { timeout: 600_000 }, async () => {
  const model = tinyModel();
  const home = ownHome();
  await standingWorker();
  const { client, greeting } = await greet("the test");
  const origin = greeting.origin as Origin;
  const { pid } = origin;
  expect(differences(greeting, resolveEnvironment(), null)).toBeNull();

  // Each part of it decides.
  const changed = (part: Partial<Origin>, threads: number | null = null): string | null =>
    differences({ ...greeting, origin: { ...origin, ...part } }, resolveEnvironment(), threads);
  const { HOME: _, ...withoutHome } = origin.environment;
  for (const [part, words] of [
    [{ code_sha256: "0".repeat(64) }, "its code is not the installed package's"],
    [{ python: "/usr/bin/python3" }, "its Python is /usr/bin/python3"],
    [{ host: "another" }, "it runs on another"],
    [{ cpus: "63" }, "it may run on the CPUs 63"],
    [{ threads_set: true }, "model.threads was set there"],
    [{ environment: { ...origin.environment, MKL_CBWR: "0".repeat(64) } }, "MKL_CBWR differs there"],
    [{ environment: withoutHome }, "HOME differs there"],
  ] as const)
    expect(changed(part)).toContain(words);
  expect(changed({ threads_set: true }, 1)).toBeNull();
  const older = { ...greeting, versions: { ...greeting.versions, torch: "1.0" } };
  expect(differences(older, resolveEnvironment(), null)).toContain("its torch is 1.0");
  expect(differences({ ...greeting, origin: null }, resolveEnvironment(), null)).toContain(
    "no single process",
  );

  // Held: another one is started beside it, or waited for, or refused where both have no room.
  const directory = scratch();
  const mark = "found-worker";
  const inspect = (...args: string[]) => cli(["inspect", "--meta", "-m", model, ...args], { mark });
  const beside = await inspect();
  expect(beside.exitCode, String(beside.stderr)).toBe(0);
  expect(beside.stderr).toMatch(/held by run the test \(pid \d+ on .*\) since .*; starting another one here/);
  const huge = join(directory, "huge");
  cpSync(model, huge, { recursive: true });
  const described = JSON.parse(readFileSync(join(huge, "config.json"), "utf8"));
  writeFileSync(join(huge, "config.json"), JSON.stringify({ ...described, vocab_size: 2 ** 40 }));
  const refused = await cli(["inspect", "-m", huge]);
  expect(refused.exitCode).toBe(3);
  expect(refused.stderr).toMatch(
    /error \(worker_busy\): this worker is held by run the test .* no room for a second model: .* the weights take/,
  );
  const waiting = inspect("--wait");
  let heard = "";
  waiting.stderr?.on("data", (chunk) => {
    heard += chunk;
  });
  await until(() => heard.includes("waiting: this worker is held by run the test"), 60, "it waits");
  await client.call("goodbye", {});
  expect((await waiting).exitCode).toBe(0);
  expect(heard).toContain(`using the worker at ${defaultSocket()} (pid ${pid})`);

  // The same one, run after run: its model stays loaded, and no other process computes.
  const rows = [];
  for (const [index, how] of ["loaded in", "was already loaded"].entries()) {
    const output = join(directory, `out${index}`);
    const config = sweepFile(directory, { model, output, batches: 1 });
    const running = cli(["run", "-c", config, "--no-plots"], { mark });
    const seen = new Set<number>();
    const watch = setInterval(() => {
      for (const found of workersOf(mark)) seen.add(found.pid);
    }, 50);
    const { exitCode, stderr } = await running;
    clearInterval(watch);
    expect(exitCode, String(stderr)).toBe(0);
    expect(stderr).toContain(`using the worker at ${defaultSocket()} (pid ${pid}`);
    expect(stderr).toContain(how);
    expect([...seen]).toEqual([]);
    rows.push(table(output));
  }
  expect(rows[1]).toEqual(rows[0]);
  // It has had threads: 1; a run that leaves them to torch takes one of its own, and gets torch's default.
  const output = join(directory, "own");
  const own = await cli([
    ...["run", "-c", sweepFile(directory, { model, output, batches: 1 }), "--no-plots"],
    ...["--set", "model.threads=null"],
  ]);
  expect(own.exitCode, String(own.stderr)).toBe(0);
  expect(own.stderr).toContain("not using the worker at");
  expect(own.stderr).toContain("model.threads was set there before; starting one here");

  expect(String((await inspect("--worker", "spawn")).stderr)).not.toContain(defaultSocket());
  const otherwise = await cli(["inspect", "--meta", "-m", model], { env: { OMP_NUM_THREADS: "3" } });
  expect(otherwise.exitCode).toBe(0);
  expect(otherwise.stderr).toContain(
    "OMP_NUM_THREADS differs there; model.threads was set there before; starting one",
  );
  expect(home).toBe(sparkablateHome());
});

it("is not looked for where others could have put it, nor waited for where it is silent", async () => {
  const home = ownHome();
  const run = join(home, "run");
  const socket = defaultSocket();
  const find = async (): Promise<string[]> => {
    const lines: string[] = [];
    expect(await findWorker("a run", null, (line) => lines.push(line))).toBeNull();
    return lines;
  };
  const listen = async (path: string): Promise<void> => {
    const server = createServer();
    await new Promise<void>((resolve) => void server.listen(path, resolve));
    chmodSync(path, 0o700);
    onTestFinished(() => void server.close());
  };
  const skipped = (path: string, why: string): string[] => [
    `not using the worker at ${socket}: ${path} ${why}; starting one here`,
  ];
  expect(await find()).toEqual([]); // there is no directory
  mkdirSync(run, { mode: 0o700 });
  expect(await find()).toEqual([]); // and no socket
  writeFileSync(socket, "");
  expect(await find()).toEqual(skipped(socket, "is something else"));
  rmSync(socket);
  await listen(socket);

  chmodSync(run, 0o755);
  expect(await find()).toEqual(skipped(run, "is open to others (its mode is not 700)"));
  chmodSync(run, 0o700);
  chmodSync(socket, 0o777);
  expect(await find()).toEqual(skipped(socket, "is open to others (its mode is not 700)"));
  chmodSync(socket, 0o700);
  if (process.geteuid?.() === 0) {
    for (const path of [run, socket]) {
      chownSync(path, 12_345, 12_345);
      expect(await find()).toEqual(skipped(path, "belongs to another user"));
      chownSync(path, 0, 0);
    }
  }
  renameSync(run, join(home, "elsewhere"));
  symlinkSync(join(home, "elsewhere"), run);
  expect(await find()).toEqual(skipped(run, "is a link"));
  rmSync(run);
  renameSync(join(home, "elsewhere"), run);
  renameSync(socket, join(run, "real.sock"));
  symlinkSync("real.sock", socket);
  expect(await find()).toEqual(skipped(socket, "is a link"));
  rmSync(socket);
  renameSync(join(run, "real.sock"), socket);

  // Somebody listens, and never says a word.
  const began = performance.now();
  expect(await find()).toEqual([
    expect.stringMatching(/the worker did not answer within \d\.?\d* s; starting one here$/),
  ]);
  expect(performance.now() - began).toBeGreaterThan(1_500);

  // What a killed worker leaves is no worker.
  rmSync(socket);
  execSocketLeftBehind(socket);
  expect(await find()).toEqual([]);
});

function execSocketLeftBehind(path: string): void {
  const { python } = resolveEnvironment();
  const code =
    "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o700)";
  execFileSync(python, ["-c", code, path]);
}
