/** A running worker, reached by its address: kept between runs, held by one, refused to others. */
import { chmodSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, it, onTestFinished, vi } from "vitest";
import { Worker } from "../../src/link/worker.ts";
import { cli, scratch, startWorker, sweepFile, table, tinyModel, until } from "../fixtures/harness.ts";

it("serves one run after another without loading again", { timeout: 120_000 }, async () => {
  const directory = scratch();
  const worker = await startWorker(directory);
  const tables = [];
  for (const [index, loaded] of ["loaded in", "was already loaded"].entries()) {
    const output = join(directory, `out${index}`);
    const config = sweepFile(directory, { model: tinyModel(), output, batches: 1 });
    const run = await cli(["run", "-c", config, "--worker", worker, "--no-plots"]);
    expect(run.exitCode, String(run.stderr)).toBe(0);
    expect(run.stderr).toContain(loaded);
    tables.push(table(output));
  }
  expect(tables[1]).toEqual(tables[0]);
});

it("tells a second controller who holds it", { timeout: 120_000 }, async () => {
  const directory = scratch();
  const worker = await startWorker(directory);
  const model = tinyModel("--layers", "8", "--width", "256");
  const output = join(directory, "long");
  const long = cli([
    "run",
    "-c",
    sweepFile(directory, { model, output, seqLen: 128, batches: 16, ablation: "sweep: heads" }),
    "--worker",
    worker,
    "--no-plots",
  ]);
  await until(() => existsAndHolds(output), 60, "the first run measures");
  const other = scratch();
  const second = await cli([
    "run",
    "-c",
    sweepFile(other, { model, output: join(other, "out") }),
    "--worker",
    worker,
  ]);
  expect(second.exitCode).toBe(3);
  expect(second.stderr).toMatch(
    /error \(worker_busy\): this worker is held by run .* \(pid \d+ on .*\) since 20/,
  );
  long.kill("SIGINT");
  expect((await long).exitCode).toBe(130);
});

function existsAndHolds(output: string): boolean {
  try {
    return readFileSync(join(output, "results.jsonl"), "utf8").includes("baseline");
  } catch {
    return false;
  }
}

it("refuses a worker that speaks another schema", { timeout: 120_000 }, async () => {
  const directory = scratch();
  const script = `import runpy, sys
from sparkablate.server import protocol
protocol.SCHEMA_SHA256 = "0" * 64
runpy.run_module("sparkablate.server", run_name="__main__", alter_sys=True)`;
  const worker = await startWorker(directory, { script: ["-c", script] });
  const run = await cli([
    "run",
    "-c",
    sweepFile(directory, { model: tinyModel(), output: join(directory, "out") }),
    "--worker",
    worker,
  ]);
  expect(run.exitCode).toBe(3);
  expect(run.stderr).toContain("error (protocol_mismatch)");
  expect(run.stderr).toContain("Install the same version");
});

it("is reached over IPv6, written in brackets", { timeout: 120_000 }, async () => {
  // Without the keys of whoever runs this test.
  vi.stubEnv("XDG_CONFIG_HOME", scratch());
  onTestFinished(() => void vi.unstubAllEnvs());
  const address = await startWorker(scratch(), { address: `tcp://[::1]:${await freePort()}` });
  const worker = await Worker.attach({ address }, "a run", new AbortController().signal);
  expect(worker.greeting.session).not.toBe("");
  await worker.close();
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0);
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

it("refuses an address that others could reach", { timeout: 60_000 }, async () => {
  const directory = scratch();
  chmodSync(directory, 0o755);
  for (const [bind, message] of [
    ["tcp://0.0.0.0:5555", "tcp://0.0.0.0:5555 can be reached by others, so both sides need keys"],
    [`ipc://${join(directory, "worker.sock")}`, "others may enter"],
    [`ipc://${join(directory, "missing", "worker.sock")}`, "does not exist"],
  ] as const) {
    const worker = await cli(["worker", "--bind", bind], { env: { XDG_CONFIG_HOME: directory } });
    expect(worker.exitCode).toBe(2);
    expect(worker.stderr).toContain(message);
  }
});
