/** SIGKILL of the controller at every step by which it changes a run directory; the same command finishes the run. */
import { existsSync, globSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import Database from "better-sqlite3";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { Worker } from "../../src/link/worker.ts";
import { directionFile, unitVector } from "../fixtures/directions.ts";
import { cli, scratch, startWorker, sweepFile, table, tinyModel } from "../fixtures/harness.ts";
import { drawn, random, repeatable } from "../fixtures/rounds.ts";
import { type Noted, witness } from "../fixtures/witness.ts";

/** Steps drawn where no rounds are asked for. */
const FEW = 5;
const BATCH_SIZE = 4;
/** Steps of a resumed run among which a second kill is drawn. */
const RESUMED_STEPS = 40;
const STRIKE = pathToFileURL(join(packageRoot(), "test", "fixtures", "strike.ts")).href;

const key = ({ condition, block }: Pick<Noted, "condition" | "block">): string => `${condition} ${block}`;

/** What is in the store, by condition and first block: when each was written down. */
function acknowledged(output: string): Map<string, string> {
  if (!existsSync(join(output, "results.sqlite"))) return new Map();
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  try {
    const made = database.prepare("SELECT count(*) FROM sqlite_schema WHERE name = 'attempt'").pluck().get();
    if (made === 0) return new Map();
    const rows = database
      .prepare("SELECT id AS condition, batch, at FROM attempt JOIN condition ON ordinal = condition")
      .all() as { condition: string; batch: number; at: string }[];
    const noted = rows.map(
      ({ condition, batch, at }) => [key({ condition, block: batch * BATCH_SIZE }), at] as const,
    );
    expect(new Set(noted.map(([name]) => name)).size, "no row twice").toBe(noted.length);
    return new Map(noted);
  } finally {
    database.close();
  }
}

/** What a run leaves for people and programs, without the times in it. */
function leftBehind(output: string) {
  const {
    run_id: _,
    seconds: __,
    started: ___,
    finished,
    name: ____,
    ...summary
  } = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
  expect(finished).not.toBeNull();
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  expect(database.pragma("integrity_check", { simple: true })).toBe("ok");
  const results = database.prepare("SELECT * FROM result ORDER BY rowid").all() as Record<string, unknown>[];
  const sums = database.prepare("SELECT * FROM measurement ORDER BY condition, block, metric").all();
  database.close();
  const names = globSync("**/*", { cwd: output }).sort();
  return {
    rows: table(output),
    results: results.map(({ seconds: _seconds, ...row }) => row),
    sums,
    summary,
    names,
    plots: names
      .filter((file) => file.endsWith(".png"))
      .map((file) => readFileSync(join(output, file), "base64")),
    page: readFileSync(join(output, "report.html"), "utf8").endsWith("</html>\n"),
  };
}

/**
 * A finished run is recognised without a worker, which a killed controller of it may then hold for 30 s; a hello of
 * the same run takes it over at once.
 */
async function letGo(address: string, output: string): Promise<void> {
  const { run_id } = JSON.parse(readFileSync(join(output, "summary.json"), "utf8"));
  const held = await Worker.attach({ address }, run_id, new AbortController().signal);
  await held.close();
}

it(`SIGKILL at the steps of a run: the next run asks for nothing that is stored, and ends in the same files ${repeatable}`, {
  timeout: 3_000_000,
}, async () => {
  const directory = scratch();
  const worker = await witness(await startWorker(directory));
  const model = tinyModel();
  // Overflows in float16: a condition that fails is to be kept as well.
  const vector = directionFile(join(directory, "v.safetensors"), unitVector(64), { layer: "1" });
  const heads = [0, 1].flatMap((layer) =>
    [0, 1, 2, 3].map((head) => `{kind: head, layer: ${layer}, heads: [${head}], mode: mean}`),
  );
  const ablation = `sweep: custom
  targets: [${heads.join(", ")}]
  directions: [{path: ${vector}, op: add, coefficient: 1000000}]`;

  const start = async (output: string, at: number) => {
    const log = `${output}.steps`;
    rmSync(log, { force: true }); // of the run before
    const config = sweepFile(directory, { model, output, dtype: "float16", ablation });
    const run = await cli(["run", "-c", config, "--worker", worker.address, "-q"], {
      env: {
        NODE_OPTIONS: `--import=${STRIKE}`,
        STRIKE_DIRECTORY: output,
        STRIKE_LOG: log,
        STRIKE_AT: String(at),
      },
    });
    const steps = readFileSync(log, "utf8").trimEnd().split("\n");
    return { run, steps };
  };

  const reference = await start(join(directory, "whole"), 0);
  expect(reference.run.exitCode, String(reference.run.stderr)).toBe(1);
  const whole = leftBehind(join(directory, "whole"));
  expect(whole.rows.map(({ error }) => error)).toContain("nonfinite_logits");
  const { steps } = reference;
  console.log(`a run takes ${steps.length} steps:\n${steps.join("\n")}`);

  for (const first of drawn(steps, "step", FEW)) {
    const output = join(directory, `struck-${first + 1}`);
    const said: string[] = [];
    worker.takeAsked();
    worker.takeDelivered();
    let before = new Map<string, string>();
    // Where the seed says so the next run is struck too.
    const second = random("again", first) < 0.5 ? 1 + Math.floor(random("second", first) * RESUMED_STEPS) : 0;
    for (const at of [first + 1, ...(second > 0 ? [second] : []), 0]) {
      const { run, steps: taken } = await start(output, at);
      const struck = run.signal === "SIGKILL";
      const where = `step ${at}: ${taken.at(-1)}`;
      // A run may have fewer steps than the first: measurements are committed once a second.
      if (!struck) expect(run.exitCode, `${where}\n${run.stderr}`).toBe(1);
      if (at > 0) expect(struck, where).toBe(taken.length >= at);
      const after = acknowledged(output);
      const delivered = worker.takeDelivered();
      for (const noted of worker.takeAsked())
        expect(before.has(key(noted)), `${where}: ${key(noted)}`).toBe(false);
      for (const [name, time] of before) expect(after.get(name), where).toBe(time);
      // What the store has is the beginning of what came; only its end is to be measured again.
      const kept = delivered.filter((noted) => after.has(key(noted)));
      expect(delivered.slice(0, kept.length), where).toEqual(kept);
      const lost = delivered.length - kept.length;
      const spanMs = lost === 0 ? 0 : (delivered.at(-1) as Noted).at - (delivered[kept.length] as Noted).at;
      // Commits are a second apart; the limit is ten times that.
      expect(spanMs, where).toBeLessThan(10_000);
      if (!struck) expect(lost, where).toBe(0);
      said.push(
        struck ? `${where} (${after.size} stored, ${lost} lost, of ${spanMs.toFixed(0)} ms)` : "finished",
      );
      before = after;
    }
    console.log(said.join("; "));
    expect(leftBehind(output), said.join("; ")).toEqual(whole);
    await letGo(worker.address, output);
  }
});
