/** `sparkablate direction` on a tiny model: the file, the table, what is refused. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { resolveEnvironment } from "../../src/environment/environment.ts";
import type { DirectionTable } from "../../src/index.ts";
import { cli, scratch, standingWorker, sweepFile, table, tinyModel } from "../fixtures/harness.ts";

standingWorker();

const WORDS = ["river", "stone", "window", "garden", "letter", "winter", "music", "engine"];

/** As many prompts as pairs of words, each ending with `end`. */
const prompts = (end: string): string =>
  WORDS.flatMap((first) => WORDS.slice(0, 5).map((second) => `the ${first} and a ${second}${end}\n`)).join(
    "",
  );

/** What the safetensors library of Python reads. */
function read(path: string): { metadata: Record<string, string>; vector: number[]; dtype: string } {
  const script = `import json, sys
from safetensors import safe_open
with safe_open(sys.argv[1], "pt") as file:
    tensor = file.get_tensor("direction")
    print(json.dumps({"metadata": file.metadata(), "vector": tensor.tolist(), "dtype": str(tensor.dtype)}))`;
  const { python } = resolveEnvironment();
  return JSON.parse(execFileSync(python, ["-c", script, path], { encoding: "utf8" }));
}

it("writes a direction with its origins and the table of all candidates, which a run can use", async () => {
  const directory = scratch();
  const [a, b] = [join(directory, "a.txt"), join(directory, "b.txt")];
  writeFileSync(a, prompts("!"));
  writeFileSync(b, prompts("?"));
  const out = join(directory, "deep", "d.safetensors");
  const args = ["-m", tinyModel(), "--dtype", "float32", "--threads", "1", "--positive", a, "--negative", b];
  const found = await cli([
    "direction",
    ...args,
    "--out",
    out,
    "--end-positions",
    "1,2",
    "--max-kl",
    "9",
    "--json",
  ]);
  expect(found.exitCode, String(found.stderr)).toBe(0);
  const made = JSON.parse(String(found.stdout)) as DirectionTable;
  expect(JSON.parse(readFileSync(join(directory, "deep", "d.json"), "utf8"))).toEqual(made);
  expect(made.candidates.map(({ layer, position }) => [layer, position])).toEqual(
    [0, 1, 2, 3].flatMap((layer) => [1, 2].map((position) => [layer, position])),
  );
  expect(made.positive).toMatchObject({ name: "a.txt", prompts: 40 });
  expect([made.positive.held_out.length, made.negative.held_out.length]).toEqual([13, 13]);
  const digest = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
  expect([made.positive.sha256, made.negative.sha256]).toEqual([digest(a), digest(b)]);

  const { metadata, vector, dtype } = read(out);
  expect(dtype).toBe("torch.float32");
  expect(vector.length).toBe(64);
  expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
  expect(metadata).toMatchObject({
    layer: String(made.chosen?.layer),
    position: String(-(made.chosen?.position ?? 0)),
    norm: String(made.chosen?.norm),
    method: "difference_of_means",
    positive_sha256: digest(a),
    negative_sha256: digest(b),
    weights_sha256: made.model.weights_sha256,
  });

  const again = await cli(["direction", ...args, "--out", out]);
  expect([again.exitCode, again.stderr]).toEqual([
    2,
    expect.stringMatching(/d\.safetensors exists; pass --force/),
  ]);

  const output = join(directory, "run");
  const ablation = `{sweep: custom, directions: [{path: ${out}, op: add}, {path: ${out}, op: project_out}]}`;
  const ran = await cli(["run", "-q", "-c", sweepFile(directory, { model: tinyModel(), output, ablation })]);
  expect(ran.exitCode, String(ran.stderr)).toBe(0);
  expect(table(output).map(({ condition }) => condition)).toEqual([
    "baseline",
    `dir[${made.chosen?.sha256.slice(0, 8)}].add(layers=[${made.chosen?.layer}])`,
    `dir[${made.chosen?.sha256.slice(0, 8)}].project_out`,
  ]);
});

it("writes the table and no direction where no candidate fits the rule, and says so", async () => {
  const directory = scratch();
  const [a, b] = [join(directory, "a.txt"), join(directory, "b.txt")];
  writeFileSync(a, prompts("!"));
  writeFileSync(b, prompts("?"));
  const out = join(directory, "d.safetensors");
  const args = ["-m", tinyModel(), "--dtype", "float32", "--threads", "1", "--positive", a, "--negative", b];
  const found = await cli(["direction", ...args, "--out", out, "--max-kl", "0"]);
  expect(found.exitCode).toBe(1);
  expect(found.stderr).toMatch(/no direction was written\. Try/);
  expect(existsSync(out)).toBe(false);
  expect(JSON.parse(readFileSync(join(directory, "d.json"), "utf8"))).toMatchObject({ chosen: null });
});

it("refuses what cannot give a direction, naming it", async () => {
  const directory = scratch();
  const write = (name: string, text: string): string => {
    writeFileSync(join(directory, name), text);
    return join(directory, name);
  };
  const a = write("a.txt", prompts("!"));
  const b = write("b.txt", prompts("?"));
  const model = ["-m", tinyModel(), "--dtype", "float32", "--threads", "1"];
  const out = ["--out", join(directory, "d.safetensors")];
  const sides = ["--positive", a, "--negative", b];
  const cases: [string[], RegExp][] = [
    [[...out, "--positive", a, "--negative", a], /prompt 1 of a\.txt is the same as prompt 1 of a\.txt/],
    [[...out, "--positive", a, "--negative", write("few.txt", "one\ntwo\n")], /few\.txt holds 2 prompts/],
    [[...out, "--positive", a, "--negative", write("none.txt", "\n\n")], /none\.txt holds no prompt/],
    [[...sides, "--out", join(directory, "d.pt")], /--out .*d\.pt: give a name that ends in \.safetensors/],
    [[...out, ...sides, "--end-positions", "0"], /--end-positions 0; allowed: 1 to 1024/],
    [
      [...out, ...sides, "--answer-tokens", "y"],
      /give --answer-tokens and --answer-tokens-negative together/,
    ],
    [[...out, ...sides, "--max-kl", "much"], /--max-kl much; allowed/],
    [
      [...out, ...sides, "--answer-tokens", "yes", "--answer-tokens-negative", "n"],
      /the answer token 'yes' is 3 tokens/,
    ],
    [[...out, ...sides, "--chat-template"], /no chat template/],
  ];
  for (const [args, message] of cases) {
    const ran = await cli(["direction", "-q", ...model, ...args]);
    expect([ran.exitCode, ran.stderr], args.join(" ")).toEqual([2, expect.stringMatching(message)]);
  }
  expect(existsSync(join(directory, "d.json"))).toBe(false);
});
