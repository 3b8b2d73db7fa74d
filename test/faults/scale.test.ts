/** Thousands of conditions through socket, store and files; a hundred thousand are in test/full/scale.full.ts. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { expect, it } from "vitest";
import { adjust } from "../../src/statistics/multiplicity.ts";
import { scratch, table } from "../fixtures/harness.ts";
import { jointTargets, quickWorker, report, resume, sweepHeads } from "../fixtures/scale.ts";

/** What the controller may hold, whatever it sweeps. */
const MOST_MIB = 300;

it("5,000 conditions: every row is there, q is over all of them, and the controller stays small", {
  timeout: 300_000,
}, async () => {
  const worker = await quickWorker(50, 100);
  const output = join(scratch(), "out");
  const swept = await sweepHeads(worker, output, ["-q", "--no-plots"]);
  console.log(`5,000 conditions: ${swept.seconds.toFixed(1)} s, ${swept.peakMiB.toFixed(0)} MiB`);
  expect(swept.peakMiB).toBeLessThan(MOST_MIB);
  const rows = table(output);
  expect(rows).toHaveLength(5_001);
  expect(new Set(rows.map(({ condition }) => condition)).size).toBe(5_001);
  // Rows are made twice and never held together; what all decide must be the same.
  const [, ...conditions] = rows;
  expect(conditions.map(({ q }) => q)).toEqual(adjust(conditions.map(({ p }) => p as number)));
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  const stored = database.prepare("SELECT q FROM result ORDER BY rowid").pluck().all();
  const twice = database
    .prepare("SELECT count(*) FROM (SELECT 1 FROM attempt GROUP BY condition, batch HAVING count(*) > 1)")
    .pluck()
    .get();
  database.close();
  expect(stored).toEqual(rows.map(({ q }) => q));
  expect(twice).toBe(0);
  const summary = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
  expect(summary).toMatchObject({ conditions: 5_000, measured: 5_000, work: { measured: 40_000, saved: 0 } });
  expect(summary.distinguishable + summary.doubted).toBe(
    conditions.filter(({ q }) => (q as number) <= 0.05).length,
  );
  const shown = await report(output, ["-q"]);
  console.log(`its page and plots: ${shown.peakMiB.toFixed(0)} MiB`);
  expect(shown.peakMiB).toBeLessThan(MOST_MIB);
  const scan = await resume(output, 5_001, 8);
  expect(scan.sums).toBe(5_001 * 8);
  const again = await sweepHeads(worker, output, ["--no-plots", "--json"]);
  expect(again.said).toContain("this run is already finished; nothing is loaded");
});

it("2,000 joint targets: each is measured, and the controller stays small", {
  timeout: 300_000,
}, async () => {
  const worker = await quickWorker(20, 100);
  const output = join(scratch(), "out");
  const ablation = jointTargets(2_000, 100);
  const swept = await sweepHeads(worker, output, ["-q", "--no-plots"], { ablation, batches: 1 });
  console.log(`2,000 joint targets: ${swept.seconds.toFixed(1)} s, ${swept.peakMiB.toFixed(0)} MiB`);
  expect(table(output).filter(({ kind }) => kind === "joint")).toHaveLength(2_000);
  expect(swept.peakMiB).toBeLessThan(200);
});
