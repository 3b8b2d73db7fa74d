/**
 * A fleet of simulated actors: what the controller, the socket, Ray and the store need for a sweep of half a million
 * measurements. Time runs fast: a slice that is reported as 20 s takes a fraction of it, so everything between two slices
 * weighs as many times as much as with real models.
 *
 * By hand: `npm run test:full test/full/fleet.full.ts`, 16 minutes on two cores and 16 GB of memory. Another size:
 * FLEET="ACTORS CONDITIONS BATCHES SECONDS SPEED", the seconds that a condition really takes; docs/scale.md has figures.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import Database from "better-sqlite3";
import { execa } from "execa";
import { expect, it, onTestFinished } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { pythonCommand } from "../../src/link/python-command.ts";
import { cli, NORTHANGER, scratch, sweepFile, tinyModel } from "../fixtures/harness.ts";

/** Heads a layer of the simulated model. */
const HEADS = 256;
const [ACTORS = 64, CONDITIONS = 32_768, BATCHES = 16, SECONDS = 0.1, SPEED = 50] = (process.env.FLEET ?? "")
  .split(" ")
  .filter((number) => number !== "")
  .map(Number);

const fixture = (name: string): string => join(packageRoot(), "test", "fixtures", name);

async function fleet(directory: string): Promise<string> {
  const run = join(directory, "run");
  mkdirSync(run, { mode: 0o700 });
  const address = `ipc://${join(run, "s")}`;
  const { python, env } = pythonCommand(resolveEnvironment());
  const flags = [
    "--bind",
    address,
    "--actors",
    `${ACTORS}`,
    "--seconds",
    `${SECONDS}`,
    "--speed",
    `${SPEED}`,
  ];
  const worker = execa(python, [fixture("fleet_worker.py"), ...flags], {
    env,
    detached: true,
    reject: false,
    buffer: false,
    stderr: "inherit",
  });
  onTestFinished(async () => {
    worker.kill("SIGTERM");
    await worker;
  });
  const { value } = await worker.iterable()[Symbol.asyncIterator]().next();
  expect(String(value)).toContain("listening");
  return address;
}

it(`${ACTORS} actors, ${CONDITIONS} conditions on ${BATCHES} batches: the controller is small, the actors are busy`, {
  timeout: 3_600_000,
}, async () => {
  const directory = scratch();
  const address = await fleet(directory);
  const peak = join(directory, "peak");
  const output = join(directory, "out");
  const layers = Array.from({ length: CONDITIONS / HEADS }, (_, layer) => layer);
  const config = sweepFile(directory, {
    model: tinyModel(),
    output,
    text: NORTHANGER,
    batches: BATCHES,
    ablation: `sweep: heads\n  layers: [${layers.join(", ")}]`,
  });
  const run = await cli(["run", "-c", config, "--worker", address, "-q", "--no-plots"], {
    env: { NODE_OPTIONS: `--import=${pathToFileURL(fixture("peak.ts")).href}`, PEAK_FILE: peak },
  });
  expect(run.exitCode, String(run.stderr)).toBe(0);
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  const [attempts, pairs, inSlices, began, ended] = database
    .prepare(
      "SELECT count(*), count(DISTINCT condition * 1000 + batch), sum(seconds), min(julianday(at)), max(julianday(at)) FROM attempt",
    )
    .raw()
    .get() as [number, number, number, number, number];
  database.close();
  expect(attempts).toBe((CONDITIONS + 1) * BATCHES);
  expect(pairs).toBe(attempts);
  const wall = (ended - began) * 86_400;
  // As the actors clock their slices; and what a condition takes alone, which leaves out that the actors share two cores.
  const busy = inSlices / (wall * ACTORS);
  const alone = (attempts * SECONDS) / (wall * ACTORS);
  const peakMiB = Number(readFileSync(peak, "utf8")) / 1024;
  console.log(
    `${ACTORS} actors, ${attempts} measurements of ${SECONDS} s at 1:${SPEED}: ${wall.toFixed(1)} s, ${(attempts / wall).toFixed(0)} a second, ` +
      `busy ${(100 * busy).toFixed(1)} % (alone ${(100 * alone).toFixed(1)} %), controller ${peakMiB.toFixed(0)} MiB`,
  );
  expect(peakMiB).toBeLessThan(500);
  expect(busy).toBeGreaterThan(0.9);
});
