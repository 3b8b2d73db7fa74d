/** docs/directions.md on SmolLM2: the page's figures come out again, and the certificate passes. */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import type { DirectionTable } from "../../src/index.ts";
import { cli, scratch, table } from "../fixtures/harness.ts";
import { fences } from "../fixtures/markdown.ts";
import { page, readThrough } from "../fixtures/story.ts";

const EXAMPLES = join(packageRoot(), "docs", "examples");

it("goes from prompts to a certificate, with the figures that the page shows", async () => {
  const { directory, told } = await readThrough("directions", (command) => command);
  const { chosen } = JSON.parse(readFileSync(join(directory, "french.json"), "utf8")) as DirectionTable;
  expect(chosen).toMatchObject({ layer: 13, position: 1, beyond_controls: true });
  // Another machine's last digits may move a figure by one in its last place.
  const shown = figures(told[0]?.stdout.split("\n").find((line) => line.startsWith("▸")) ?? "");
  const printed = figures(
    page("directions")
      .split("\n")
      .find((line) => line.startsWith("▸")) ?? "",
  );
  expect(shown.length).toBe(printed.length);
  for (const [index, value] of shown.entries()) expect(value).toBeCloseTo(printed[index] ?? 0, 1);

  const rows = table(join(directory, "results/french"));
  const effect = (id: RegExp): number =>
    rows.find(({ condition }) => id.test(String(condition)))?.delta_nll as number;
  expect(effect(/\.add\(layers=\[13\]\)$/)).toBeCloseTo(4.015, 2);
  expect(effect(/^dir\[\w+\]\.project_out$/)).toBeCloseTo(0.083, 2);
  expect(rows.filter(({ distinguishable }) => distinguishable).length).toBe(4);

  expect(told[2]?.stdout).toMatch(/port de la mer/);
  expect(told[3]?.stdout).toMatch(/certified with stock transformers/);
});

it("finds nothing in labels without meaning", async () => {
  const directory = scratch();
  const prompts = ["french.txt", "english.txt"].map((name) =>
    readFileSync(join(EXAMPLES, name), "utf8").trim().split("\n"),
  );
  const shuffled = prompts.map((lines, side) =>
    lines.map((line, at) => (at % 2 === 0 ? line : (prompts[1 - side]?.[at] ?? ""))),
  );
  const [a, b] = shuffled.map((lines, side) => {
    const path = join(directory, `${side}.txt`);
    writeFileSync(path, `${lines.join("\n")}\n`);
    return path;
  });
  const out = join(directory, "none.safetensors");
  const ran = await cli([
    "direction",
    "-q",
    "-m",
    "builtin:smollm2-135m",
    "--positive",
    a ?? "",
    "--negative",
    b ?? "",
    "--out",
    out,
    "--max-kl",
    "100",
  ]);
  expect([0, 1], String(ran.stderr)).toContain(ran.exitCode);
  const { chosen, candidates } = JSON.parse(
    readFileSync(join(directory, "none.json"), "utf8"),
  ) as DirectionTable;
  expect(chosen?.beyond_controls ?? false).toBe(false);
  console.log("split-half cosines", candidates.map((one) => one.split_half_cosine.toFixed(2)).join(" "));
});

it("the Python example goes on in French", () => {
  const { python } = resolveEnvironment();
  const code = fences(page("directions")).find(({ language }) => language === "python")?.text ?? "";
  const text = execFileSync(python, ["-c", code], {
    encoding: "utf8",
    env: { ...process.env, PYTHONPATH: join(packageRoot(), "worker") },
  });
  expect(text).toMatch(/The dog is in the .*(de|la|en|le) /);
});

const figures = (line: string): number[] =>
  [...line.matchAll(/-?\d+(?:\.\d+)?/g)].map(([figure]) => Number(figure));
