/** A model that is replaced while it is in use: no table is of two models, and none says that it is the wrong one's. */
import { execFileSync } from "node:child_process";
import {
  closeSync,
  cpSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { expect, it } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { Controller } from "../../src/controller.ts";
import { SparkablateError } from "../../src/errors.ts";
import { scratch, sweepFile, tinyModel } from "../fixtures/harness.ts";
import { random, repeatable, rounds } from "../fixtures/rounds.ts";

const ROUNDS = rounds(9);
type Name = "a" | "b";
const otherOf = (name: Name): Name => (name === "a" ? "b" : "a");
const WEIGHTS = "model.safetensors";

/** Each puts the weights of `from` in the place of the model's, with their old time stamps. */
const WAYS: readonly ((from: string, model: string) => void)[] = [
  // Unlinks first; reproducible builds have equal times.
  (from, model) => void execFileSync("tar", ["-xf", `${from}.tar`, "-C", model]),
  (from, model) => void execFileSync("cp", ["-p", join(from, WEIGHTS), join(model, WEIGHTS)]),
  (from, model) => {
    const file = openSync(join(model, WEIGHTS), "r+");
    writeSync(file, readFileSync(join(from, WEIGHTS)));
    closeSync(file);
  },
];

type Sums = ReadonlyMap<string, number>;

function sumsOf(output: string): Sums {
  const database = new Database(join(output, "results.sqlite"), { readonly: true });
  const rows = database
    .prepare("SELECT condition || ' ' || block || ' ' || metric, sum FROM measurement")
    .raw();
  const sums = new Map(rows.all() as [string, number][]);
  database.close();
  return sums;
}

it(`swaps by tar, cp -p and in place: under a run, before a resume, under a warm worker; ${ROUNDS} ${repeatable}`, {
  timeout: 300_000 + ROUNDS * 60_000,
}, async () => {
  const directory = scratch();
  const model = join(directory, "model");
  const places = { a: join(directory, "a"), b: join(directory, "b") };
  for (const [name, seed] of [
    ["a", "0"],
    ["b", "1"],
  ] as const) {
    cpSync(tinyModel("--seed", seed), places[name], { recursive: true });
    const tar = ["--mtime=@1000000000", "-C", places[name], "-cf", `${places[name]}.tar`, WEIGHTS];
    execFileSync("tar", tar);
    execFileSync("tar", ["-xf", `${places[name]}.tar`, "-C", places[name]]);
  }
  cpSync(places.a, model, { recursive: true, preserveTimestamps: true });
  const text = join(directory, "text.txt");
  writeFileSync(text, "It was a dark and stormy night; the rain fell in torrents. ".repeat(100));
  await using controller = new Controller();

  /** Runs it to its end, or to `after` measurements, and then `strike`s or breaks off; the error's code. */
  async function run(
    output: string,
    after = Number.POSITIVE_INFINITY,
    strike?: () => void,
  ): Promise<string | undefined> {
    mkdirSync(join(directory, "configs", output), { recursive: true });
    const at = join(directory, "configs", output);
    const sweep = { model, text, output: join(directory, output), batches: 24, ablation: "sweep: heads" };
    const config = loadConfig(sweepFile(at, sweep));
    const broken = new AbortController();
    let measured = 0;
    try {
      const on = ({ type }: { type: string }): void => {
        if (type !== "measured" || ++measured !== after) return;
        if (strike === undefined) broken.abort();
        else strike();
      };
      for await (const _ of controller.run(config, { on, signal: broken.signal }));
      return undefined;
    } catch (error) {
      if (error instanceof SparkablateError) return error.code;
      throw error;
    }
  }

  const references: Record<string, Sums> = {};
  let now: Name = "a";
  const swap = (way: number): void => {
    now = otherOf(now);
    WAYS[way % WAYS.length]?.(places[now], model);
  };
  for (const name of ["a", "b"] as const) {
    expect(await run(`whole-${name}`)).toBe(undefined);
    references[name] = sumsOf(join(directory, `whole-${name}`));
    swap(0);
  }
  const pairs = references.a?.size ?? 0;
  const differing = [...(references.a ?? [])].filter(([key, sum]) => references.b?.get(key) !== sum);
  expect(differing.length, "the two models never agree").toBe(pairs);

  const expectOf = (output: string, name: Name, least: number): void => {
    const sums = sumsOf(join(directory, output));
    expect(sums.size).toBeGreaterThanOrEqual(least);
    for (const [key, sum] of sums) expect(sum, `${output}: ${key}`).toBe(references[name]?.get(key));
  };

  const ends: Record<string, number> = {};
  for (let round = 0; round < ROUNDS; round++) {
    const output = `round-${round}`;
    const before = now;
    // Early: the worker is ahead of what is told here.
    const after = 1 + Math.floor((random("swap", round) * pairs) / 3);
    const when = ["under a run", "before a resume", "under a warm worker"][Math.floor(round / 3) % 3];
    let end: string | undefined;
    if (when === "under a run") {
      end = await run(output, after, () => swap(round));
      // One that had sent all of it by then ends well; any other must not.
      const whole = sumsOf(join(directory, output)).size === pairs;
      if (whole) expect([undefined, "baseline_changed"]).toContain(end);
      else expect(["baseline_changed", "load_failed"]).toContain(end);
      expectOf(output, before, 1);
    } else if (when === "before a resume") {
      const broken = await run(output, after);
      swap(round);
      end = await run(output);
      expect(end, `after ${broken}`).toBe("other_run");
      expectOf(output, before, 1);
      swap(round);
      expect(await run(output)).toBe(undefined);
      expectOf(output, before, pairs);
    } else {
      expect(await run(output)).toBe(undefined);
      swap(round);
      expect(await run(`${output}-other`)).toBe(undefined);
      expectOf(output, before, pairs);
      expectOf(`${output}-other`, now, pairs);
      rmSync(join(directory, `${output}-other`), { recursive: true });
    }
    rmSync(join(directory, output), { recursive: true });
    const key = `${when}: ${end ?? "finished"}`;
    ends[key] = (ends[key] ?? 0) + 1;
  }
  console.log(`${ROUNDS} swaps: ${JSON.stringify(ends)}`);
});
