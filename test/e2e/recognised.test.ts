/** A finished run, called again: recognised without Python, refused where the model is another, never taken on trust in silence. */
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { expect, it } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { Controller } from "../../src/controller.ts";
import { cli, scratch, sweepFile, table, tinyModel } from "../fixtures/harness.ts";

/** A Python that leaves a trace where it is started. */
function tracedPython(directory: string): { env: Record<string, string>; started: () => boolean } {
  const trace = join(directory, "python-started");
  const hook = join(directory, "hook");
  mkdirSync(hook, { recursive: true });
  writeFileSync(join(hook, "sitecustomize.py"), `open(${JSON.stringify(trace)}, "a").write("started\\n")\n`);
  return {
    env: { PYTHONPATH: hook },
    started: () => {
      try {
        return readFileSync(trace, "utf8") !== "";
      } catch {
        return false;
      } finally {
        rmSync(trace, { force: true });
      }
    },
  };
}

const attempts = (output: string): unknown => {
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  try {
    return database.prepare("SELECT count(*) FROM attempt").pluck().get();
  } finally {
    database.close();
  }
};

it("shows the table without Python, sees what changed, and says what it did not look at", {
  timeout: 600_000,
}, async () => {
  const directory = scratch();
  const [model, output, text] = ["model", "out", "text.txt"].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  const other = tinyModel("--seed", "1");
  cpSync(tinyModel(), model, { recursive: true });
  writeFileSync(text, "It was a dark and stormy night; the rain fell in torrents. ".repeat(60));
  const config = sweepFile(directory, { model, output, text, batches: 2 });
  const python = tracedPython(directory);
  const run = async (...more: string[]) =>
    await cli(["run", "-c", config, "--json", "--no-plots", ...more], { env: python.env });

  const first = await run();
  expect(first.exitCode, String(first.stderr)).toBe(0);
  expect(python.started()).toBe(true);
  expect(JSON.parse(String(first.stdout)).model_checked).toBe(true);
  const rows = table(output);
  const measured = attempts(output);

  const expectRecognised = async (checked: boolean, ...more: string[]): Promise<string> => {
    const again = await run(...more);
    expect(again.exitCode, String(again.stderr)).toBe(0);
    expect(python.started()).toBe(false);
    expect(JSON.parse(String(again.stdout)).model_checked).toBe(checked);
    expect(String(again.stderr).includes("the model was not looked at")).toBe(!checked);
    expect(table(output)).toEqual(rows);
    expect(attempts(output)).toBe(measured);
    const summary = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
    expect(summary.model_checked).toBe(checked ? undefined : false);
    return String(again.stderr);
  };
  expect(await expectRecognised(true)).toContain("already finished");
  await expectRecognised(true, "--verify", "--retry-failed"); // none failed
  const controller = new Controller();
  for await (const row of controller.run(loadConfig(config))) expect(row).toBeUndefined();
  expect(controller.workerPid).toBeNull();

  // What is drawn already is kept; what is not, or was drawn before the last measurement, is drawn.
  const plots = join(output, "plots");
  const plotNow = () => join(plots, String(readdirSync(plots)[0]));
  const drawn = async () => {
    expect((await cli(["run", "-c", config, "-q"], { env: python.env })).exitCode).toBe(0);
    expect(python.started()).toBe(false);
    return statSync(plotNow()).mtimeMs;
  };
  const when = await drawn();
  const plot = plotNow();
  expect(await drawn()).toBe(when);
  utimesSync(plot, new Date(0), new Date(0));
  const anew = await drawn();
  expect(anew).toBeGreaterThan(when);
  rmSync(plot);
  expect(await drawn()).toBeGreaterThan(anew);

  const weights = join(model, "model.safetensors");
  utimesSync(weights, new Date(), new Date()); // read once, and found to be the same
  await expectRecognised(true);
  cpSync(model, join(directory, "moved"), { recursive: true });
  await expectRecognised(true, "--set", `model.name=${join(directory, "moved")}`);
  await expectRecognised(false, "--worker", "tcp://127.0.0.1:1"); // its files are not ours to look at

  // Another model, tokenizer, template: each of them is refused by name, still without Python.
  for (const [name, content] of [
    ["model.safetensors", readFileSync(join(other, "model.safetensors"))],
    ["tokenizer_config.json", "{}"],
    ["generation_config.json", '{"do_sample": true}'],
  ] as const) {
    const kept = readFileSync(join(model, name));
    writeFileSync(join(model, name), content);
    const refused = await run();
    expect(refused.exitCode).toBe(2);
    expect(String(refused.stderr)).toMatch(/error \(other_run\)/);
    expect(String(refused.stderr).split("\n")).toContainEqual(
      expect.stringMatching(new RegExp(`^  file ${name}: [0-9a-f]{12} there, [0-9a-f]{12} now$`)),
    );
    expect(python.started()).toBe(false);
    writeFileSync(join(model, name), kept);
  }
  await expectRecognised(true);

  // What may matter, and what is asked for anew, is the worker's.
  writeFileSync(join(model, "chat_template.jinja"), "{{ messages }}");
  const template = await run();
  expect(template.exitCode).toBe(2);
  expect(String(template.stderr)).toMatch(/file chat_template\.jinja: absent there/);
  expect(python.started()).toBe(true);
  rmSync(join(model, "chat_template.jinja"));
  const words = readFileSync(text, "utf8");
  writeFileSync(text, `Once more. ${words}`);
  const longer = await run();
  expect(String(longer.stderr)).toContain("evaluation blocks");
  expect(python.started()).toBe(true);
  writeFileSync(text, words);
  await expectRecognised(true);

  renameSync(weights, join(directory, "put away"));
  await expectRecognised(false);
  renameSync(join(directory, "put away"), weights);

  // A run of 0.1.0 has no files stored: loaded once, then recognised.
  const database = new Database(join(output, "results.sqlite"));
  database.exec(
    "DELETE FROM checksum WHERE name IN ('model_file', 'seen'); DROP TABLE model_file; DROP TABLE seen",
  );
  database.close();
  const old = await run();
  expect(old.exitCode, String(old.stderr)).toBe(0);
  expect(python.started()).toBe(true);
  expect(attempts(output)).toBe(measured);
  await expectRecognised(true);
});
