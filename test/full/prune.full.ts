/** Searches beside brute force, on 20 models; and one that is killed 20 times. `npm run test:full` runs it. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { defineConfig } from "../../src/config/load.ts";
import { Controller } from "../../src/controller.ts";
import { sha256 } from "../../src/digest.ts";
import type { Pruned } from "../../src/prune/prune.ts";
import { cli, NORTHANGER, tinyModel } from "../fixtures/harness.ts";
import { random, repeatable, rounds } from "../fixtures/rounds.ts";

const LAYERS = 6;
const ROUNDS = rounds(20);
const desk = mkdtempSync(join(tmpdir(), "sparkablate-prune-full-"));
afterAll(() => rmSync(desk, { recursive: true }));
const texts = ["northanger-abbey", "sense-and-sensibility"].map((name) => {
  const file = join(desk, `${name}.txt`);
  writeFileSync(file, readFileSync(NORTHANGER.replace("northanger-abbey", name), "utf8").slice(0, 40_000));
  return file;
});
const sets = Array.from({ length: 2 ** LAYERS }, (_, bits) =>
  Array.from({ length: LAYERS }, (_, layer) => layer).filter((layer) => bits & (1 << layer)),
).filter(({ length }) => length >= 1 && length < LAYERS);
const id = (set: readonly number[]) => set.map((layer) => `L${layer}.layer.skip`).join(" + ");

describe(`a search on ${ROUNDS} models of ${LAYERS} layers, beside every subset`, () => {
  it("is at least as good as plain greedy in every size", async () => {
    await using controller = new Controller({ worker: "spawn" });
    const tally = { sizes: 0, best: 0, worst: 0, better: 0 };
    for (let seed = 1; seed <= ROUNDS; seed++) {
      const name = tinyModel("--layers", String(LAYERS), "--seed", String(seed));
      const out = join(desk, `seed-${seed}`);
      const model = { name, dtype: "float32" as const };
      const blocks = { seq_len: 32, blocks: 16, held_out_blocks: 4 };
      const { steps } = await controller.prune({
        model,
        texts,
        target: { remove: LAYERS - 1 },
        ...blocks,
        out,
      });
      const [dataset, ...also] = texts as [string, ...string[]];
      const values = new Map<string, number>();
      const config = defineConfig({
        model,
        ablation: { sweep: "custom", targets: sets.map(id) },
        eval: { dataset, also, seq_len: 32, batch_size: 8, max_batches: 4 },
        output: { dir: join(desk, `brute-${seed}`) },
      });
      for (const { condition, delta_nll } of await controller.run(config).rows())
        if (delta_nll !== null) values.set(condition, delta_nll);
      const worth = (set: readonly number[]) => values.get(id(set)) as number;
      let greedy: readonly number[] = [];
      for (const { removed, selection_delta_nll } of steps) {
        const same = sets.filter(({ length }) => length === removed.length);
        const larger = same.filter((set) => greedy.every((layer) => set.includes(layer)));
        greedy = larger.reduce((least, set) => (worth(set) < worth(least) ? set : least));
        const least = Math.min(...same.map(worth));
        expect(selection_delta_nll).toBe(values.get(removed.join(" + ")));
        expect(selection_delta_nll).toBeLessThanOrEqual(worth(greedy));
        tally.sizes++;
        if (selection_delta_nll === least) tally.best++;
        if (selection_delta_nll < worth(greedy)) tally.better++;
        tally.worst = Math.max(tally.worst, selection_delta_nll - least);
      }
      expect(steps).toHaveLength(LAYERS - 1);
    }
    console.log(
      `the best set there is in ${tally.best} of ${tally.sizes} sizes, at most ${tally.worst.toFixed(6)} nats a token worse; better than greedy in ${tally.better}`,
    );
  });
});

describe(`a search that is killed ${ROUNDS} times`, () => {
  const model = tinyModel("--layers", String(LAYERS));
  const line = (directory: string) => [
    ...["prune", "-m", model, "--text", ...texts, "--seq-len", "32", "--blocks", "16", "--held-out", "16"],
    ...["--dtype", "float32", "--remove", "3", "--out", directory],
  ];
  /** Everything that a user gets, but for times. */
  const result = (directory: string) => {
    const { checkpoint, unedited, ...found }: Pruned = JSON.parse(
      readFileSync(join(directory, "path.json"), "utf8"),
    );
    const files = readdirSync(join(directory, "model")).sort();
    const weights = files
      .filter((name) => name.endsWith(".safetensors"))
      .map((name) => [name, sha256(readFileSync(join(directory, "model", name)))]);
    const card = readFileSync(join(directory, "model", "README.md"), "utf8")
      .split("\n")
      .filter((text) => !/tokens a second|tokens\/s/.test(text))
      .join("\n")
      .replaceAll(directory, "DIR");
    return { found, certified: checkpoint !== null, nll: unedited?.nll, files, weights, card };
  };

  it(`ends with the same path, the same weights and the same card ${repeatable}`, async () => {
    const whole = join(desk, "whole");
    const began = performance.now();
    expect((await cli(line(whole))).exitCode).toBe(0);
    const took = performance.now() - began;
    const killed = join(desk, "killed");
    let kills = 0;
    while (kills < ROUNDS) {
      const { exitCode } = await cli(line(killed), {
        timeout: Math.ceil(took * random("prune", kills)),
        killSignal: "SIGKILL",
      });
      // Once it is finished it begins anew elsewhere.
      if (exitCode === 0) {
        expect(result(killed)).toEqual(result(whole));
        rmSync(killed, { recursive: true });
      } else kills++;
    }
    const { exitCode, stderr } = await cli(line(killed));
    expect(exitCode, String(stderr)).toBe(0);
    expect(result(killed)).toEqual(result(whole));
  });
});
