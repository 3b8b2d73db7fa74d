/** A worker with several slots answers slices in any order; what is decided and shown does not depend on it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { expect, it } from "vitest";
import { scratch, table } from "../fixtures/harness.ts";
import { quickWorker, sweepHeads } from "../fixtures/scale.ts";

const SLOTS = 5;

/** Which batches were measured before which, as their first measurements came. */
function arrivals(output: string): number[] {
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  const rows = database.prepare("SELECT batch FROM attempt ORDER BY rowid").pluck().all() as number[];
  database.close();
  return rows;
}

it.each([
  ["every block", []],
  ["a race for the top 5", ["--set", "stop={top: 5, confidence: 0.95, tolerance: 0.002}"]],
])(
  "with %s, slices that come back in another order give the same table",
  { timeout: 120_000 },
  async (_, flags) => {
    const common = [...flags, "--set", "eval.max_batches=16", "-q", "--no-plots"];
    const inOrder = await sweepHeads(await quickWorker(20, 10), join(scratch(), "out"), common);
    const beside = await sweepHeads(await quickWorker(20, 10, SLOTS), join(scratch(), "out"), common);
    const [straight, mixed] = [arrivals(inOrder.output), arrivals(beside.output)];
    expect(straight).toEqual([...straight].sort((a, b) => a - b));
    expect(mixed).not.toEqual(straight);
    expect([...mixed].sort((a, b) => a - b)).toEqual(straight);
    expect(table(beside.output)).toEqual(table(inOrder.output));
    const work = (output: string) => JSON.parse(readFileSync(join(output, "summary.json"), "utf8")).work;
    expect(work(beside.output)).toMatchObject({ measured: work(inOrder.output).measured });
    if (flags.length > 0) expect(work(beside.output).saved).toBeGreaterThan(0);
  },
);
