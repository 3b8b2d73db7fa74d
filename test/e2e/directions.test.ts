/** Directions in a run: from both kinds of file, sent again after a restart, part of the run's identity. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { Controller, loadConfig } from "../../src/index.ts";
import { directionFile, pickled, unitVector } from "../fixtures/directions.ts";
import { cli, scratch, sweepFile, table, tinyModel } from "../fixtures/harness.ts";

const WIDTH = 64;

it("measures directions of both kinds of file, joint with other sites, and again after the worker's death", async () => {
  const directory = scratch();
  const vector = unitVector(WIDTH);
  directionFile(join(directory, "a.safetensors"), vector, { layer: "2", norm: "3" });
  pickled(
    join(directory, "b.pt"),
    `{"v": torch.tensor(${JSON.stringify(unitVector(WIDTH, 2))}) * 5, "layer": 1}`,
  );
  const ablation = `sweep: custom
  targets:
    - [{kind: head, layer: 1, heads: [0]}, {kind: direction, path: ${directory}/a.safetensors, op: project_out}]
  directions:
    - {path: ${directory}/a.safetensors, op: project_out}
    - {path: ${directory}/a.safetensors, op: project_out, coefficient: 0}
    - {path: ${directory}/a.safetensors, op: add}
    - {path: ${directory}/b.pt, op: add}
    - {path: ${directory}/b.pt, op: project_out, layers: [0, 3]}`;
  const [whole, broken] = ["whole", "broken"].map((name) => join(directory, name)) as [string, string];
  const config = (output: string) =>
    loadConfig(sweepFile(directory, { model: tinyModel(), output, ablation }));

  await using controller = new Controller();
  for await (const _ of controller.run(config(whole)));
  const rows = table(whole);
  expect(rows.map(({ condition }) => String(condition).replaceAll(/\[[0-9a-f]{8}\]/g, ""))).toEqual([
    "baseline",
    "L1.head[0].zero + dir.project_out",
    "dir.project_out",
    "dir.project_out(coefficient=0)",
    "dir.add(layers=[2])",
    "dir.add(layers=[1])",
    "dir.project_out(layers=[0,3])",
  ]);
  const [baseline, ...edited] = rows.map(({ nll }) => nll);
  expect(edited[2]).toBe(baseline);
  expect(new Set(edited.toSpliced(2, 1)).size).toBe(5);

  let killed = false;
  for await (const _ of controller.run(config(broken))) {
    if (!killed) process.kill(controller.workerPid as number, "SIGKILL");
    killed = true;
  }
  expect(table(broken)).toEqual(rows);

  // The same name with another vector or norm in it is another run.
  directionFile(join(directory, "a.safetensors"), vector, { layer: "2", norm: "4" });
  const changed = await cli(["run", "-c", join(directory, "sweep.yaml"), "-q"]);
  expect(changed.exitCode).toBe(2);
  expect(changed.stderr).toMatch(/belongs to another run; these differ:\n {2}directions: /);
});

it("refuses a wrong width and a pickle that would run code, which is not run", async () => {
  const directory = scratch();
  const canary = join(directory, "canary");
  directionFile(join(directory, "narrow.safetensors"), unitVector(8));
  pickled(join(directory, "evil.pt"), `{"v": torch.ones(4), "x": Touch(${JSON.stringify(canary)})}`);
  const run = (file: string) =>
    cli([
      "run",
      "-q",
      "-c",
      sweepFile(directory, {
        model: tinyModel(),
        output: join(directory, "out"),
        ablation: `{sweep: custom, directions: [{path: ${directory}/${file}, op: project_out}]}`,
      }),
    ]);
  const narrow = await run("narrow.safetensors");
  expect([narrow.exitCode, narrow.stderr]).toEqual([
    2,
    expect.stringMatching(/narrow\.safetensors: the direction has 8 entries; allowed: 64/),
  ]);
  const evil = await run("evil.pt");
  expect([evil.exitCode, evil.stderr]).toEqual([
    2,
    expect.stringMatching(/evil\.pt: holds more than tensors/),
  ]);
  expect(existsSync(canary)).toBe(false);
});
