/** The public API from a script outside the project, as a user would write it. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { Controller } from "../../src/controller.ts";
import type { RunEvent } from "../../src/events.ts";
import type { Row } from "../../src/results/row.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { processesOf, scratch, sweepFile, tinyModel } from "../fixtures/harness.ts";
import { linkPackage, typeErrors } from "../fixtures/user-project.ts";

const SCRIPT = `import { Controller, loadConfig, type Row } from "sparkablate";

const controller = new Controller();
const seen: string[] = [];
for await (const row of controller.run(loadConfig(process.argv[2] ?? ""))) {
  const { condition, blocks }: Row = row;
  seen.push(\`\${condition} \${blocks}\`);
  if (seen.length === 3) break;
}
console.log(JSON.stringify({ seen, worker: controller.workerPid !== null }));
await controller.close();
`;

it("iterates rows, breaks off, closes: the process ends, no child is left, strict types check", {
  timeout: 120_000,
}, async () => {
  const directory = scratch();
  linkPackage(directory);
  const script = join(directory, "script.mts");
  writeFileSync(script, SCRIPT);
  const options = { target: "es2024" };
  expect(await typeErrors(directory, ["script.mts"], "typescript-7", options)).toBe("");

  const config = sweepFile(directory, { model: tinyModel(), output: join(directory, "out") });
  const ran = await execa(process.execPath, [script, config], {
    env: { SPARKABLATE_TEST_MARK: directory },
    reject: false,
    timeout: 60_000,
  });
  expect(ran.exitCode, ran.stderr).toBe(0);
  const { seen, worker } = JSON.parse(ran.stdout) as { seen: string[]; worker: boolean };
  expect(worker).toBe(true);
  expect(new Set(seen).size).toBe(3);
  for (const row of seen) expect(row).toMatch(/^(baseline|L[0-3]\.layer\.skip) 4$/);
  expect(processesOf(directory)).toEqual([]);
});

it("load gives the map and the self-test; a run of the loaded model yields every row to its last block", {
  timeout: 120_000,
}, async () => {
  const directory = scratch();
  const config = loadConfig(sweepFile(directory, { model: tinyModel(), output: join(directory, "out") }));
  await using controller = new Controller();
  const stages: string[] = [];
  const first = await controller.load(config, {
    on: (event) => {
      if (event.type === "stage") stages.push(event.stage);
    },
  });
  expect(first.reused).toBe(false);
  expect(first.model_map.layers).toHaveLength(4);
  expect(first.self_test.map(({ passed }) => passed)).not.toContain(false);
  expect(stages).not.toEqual([]);
  const blocks: Record<string, number[]> = {};
  const on = (event: RunEvent): void => {
    if (event.type === "loaded") expect(event.model.reused).toBe(true);
  };
  for await (const row of controller.run(config, { on })) {
    blocks[row.condition] ??= [];
    blocks[row.condition]?.push(row.blocks);
  }
  // One row a batch, and the last one counts every block: whoever keeps the last has the finished figures.
  const conditions = ["baseline", ...[0, 1, 2, 3].map((layer) => `L${layer}.layer.skip`)];
  expect(blocks).toEqual(Object.fromEntries(conditions.map((condition) => [condition, [4, 8, 12, 16]])));
  expect((await controller.load(config)).reused).toBe(true);
});

it("a run's handle has its updates, its end and its final rows", { timeout: 120_000 }, async () => {
  const directory = scratch();
  const file = sweepFile(directory, { model: tinyModel(), output: join(directory, "out"), batches: 2 });
  const config = loadConfig(file);
  await using controller = new Controller();
  const run = controller.run(config);
  const updates: Row[] = [];
  const reading = (async () => {
    for await (const row of run.updates()) updates.push(row);
  })();
  expect(() => run.updates()).toThrow(/read once/);
  await run.done;
  await reading;
  const rows = await run.rows();
  expect(rows).toEqual(readRun(config.output.dir).rows);
  expect(rows.map(({ blocks }) => blocks)).toEqual([8, 8, 8, 8, 8]);
  expect(updates).toHaveLength(10);
  // A finished run has no updates; nobody needs to read them.
  expect(await controller.run(config).rows()).toEqual(rows);

  const other = loadConfig(file, { set: [`output.dir=${join(directory, "other")}`] });
  const broken = controller.run(other);
  for await (const _ of broken) break;
  await expect(broken.done).rejects.toMatchObject({ code: "interrupted" });
  await expect(controller.run({ ...other, eval: { ...other.eval, seed: 1 } }).done).rejects.toMatchObject({
    code: "other_run",
  });
  // What was broken off goes on.
  expect((await controller.run(other).rows()).map(({ nll }) => nll)).toEqual(rows.map(({ nll }) => nll));
});
