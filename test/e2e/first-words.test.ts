/** What the command line says before anything is loaded: help, mistakes in a line, the cost of a run. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, describe, expect, it } from "vitest";

const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const LOADED = fileURLToPath(new URL("../fixtures/loaded.mjs", import.meta.url));
const desk = mkdtempSync(join(tmpdir(), "sparkablate-first-"));
afterAll(() => rmSync(desk, { recursive: true }));

// A Python that leaves a mark when it is started, and nothing else on the PATH.
mkdirSync(join(desk, "bin"));
for (const name of ["python", "python3", "python3.12"]) {
  writeFileSync(join(desk, "bin", name), `#!/bin/sh\n: > ${join(desk, "started")}\n`);
  chmodSync(join(desk, "bin", name), 0o755);
}
mkdirSync(join(desk, "work"));
mkdirSync(join(desk, "home"));
mkdirSync(join(desk, "model"));
writeFileSync(
  join(desk, "model", "config.json"),
  JSON.stringify({
    ...{
      model_type: "llama",
      num_hidden_layers: 4,
      hidden_size: 64,
      num_attention_heads: 4,
      num_key_value_heads: 2,
    },
    ...{ intermediate_size: 128, vocab_size: 100, max_position_embeddings: 64, tie_word_embeddings: true },
  }),
);
writeFileSync(join(desk, "text.txt"), "It is a truth universally acknowledged. ".repeat(500));
writeFileSync(join(desk, "bad.yaml"), "model: {nam: x}\n");

const sparkablate = (args: readonly string[], node: readonly string[] = []) =>
  execa(process.execPath, [...node, MAIN, ...args], {
    cwd: join(desk, "work"),
    env: { PATH: join(desk, "bin"), SPARKABLATE_HOME: join(desk, "home"), NO_COLOR: "1" },
    extendEnv: false,
    reject: false,
  });

describe("the help", () => {
  it("comes without anything that only commands need", async () => {
    const { stdout, stderr, exitCode } = await sparkablate(["--help"], ["--import", LOADED]);
    expect(exitCode).toBe(0);
    expect(stdout).toContain("report [options] <directories...>");
    const loaded = stderr.split("\n").filter((line) => line.startsWith("loaded "));
    expect(loaded.length).toBeGreaterThan(5);
    expect(
      loaded.filter((line) => /zod|zeromq|canvas|chart|execa|yaml|sqlite|cli\/(run|report|bake)/.test(line)),
    ).toEqual([]);
    // Each takes a millisecond or two; the files of all commands together are 2.6 MB.
    expect(loaded.length).toBeLessThan(20);
    const bytes = loaded.map((line) => statSync(fileURLToPath(line.slice("loaded ".length))).size);
    expect(bytes.reduce((sum, size) => sum + size)).toBeLessThan(500_000);
  });
});

describe("a mistake with --json", () => {
  it.each([
    [
      "an unknown option",
      ["report", "x", "--json", "--nonsense"],
      2,
      "usage",
      "See 'sparkablate report --help'.",
    ],
    ["an unknown command", ["rnu", "--json"], 2, "usage", "See 'sparkablate --help'."],
    [
      "an unknown choice",
      ["run", "--json", "-m", "x", "--sweep", "head"],
      2,
      "usage",
      "See 'sparkablate run --help'.",
    ],
    [
      "a file that is not there",
      ["run", "--json", "-c", "nope.yaml"],
      2,
      "input_missing",
      "Check the path; relative paths start at your working directory.",
    ],
    [
      "a config that is none",
      ["run", "--json", "-c", "../bad.yaml"],
      2,
      "config_invalid",
      "Correct the entries listed above; 'sparkablate init' writes a config that works.",
    ],
    [
      "a flag's value",
      ["run", "--json", "-m", "../model", "--sweep", "mlp", "--layers", "0-3", "--text", "../text.txt"],
      2,
      "config_invalid",
      "See 'sparkablate run --help'. Keys that have no option of their own are set with --set, like --set eval.seq_len=256.",
    ],
    [
      "no environment",
      ["inspect", "--json", "-m", "../model"],
      3,
      "environment_missing",
      "Run 'sparkablate setup'.",
    ],
    [
      "a run directory that is none",
      ["report", "--format", "json", "../home"],
      2,
      "input_missing",
      expect.any(String),
    ],
  ])("is one object: %s", async (_, args, exit, code, help) => {
    const { stdout, stderr, exitCode } = await sparkablate(args);
    expect(exitCode).toBe(exit);
    expect(JSON.parse(stdout)).toEqual({ error: { code, message: expect.any(String), help } });
    expect(stderr).not.toBe("");
    expect(readdirSync(join(desk, "work"))).toEqual([]);
  });

  it("is words alone without it", async () => {
    const { stdout, stderr } = await sparkablate(["report", "x", "--nonsense"]);
    expect(stdout).toBe("");
    expect(stderr).toContain("See 'sparkablate report --help'.");
  });
});

describe("a dry run", () => {
  const line = ["run", "-m", "../model", "--sweep", "heads", "--text", "../text.txt", "--dry-run"];

  it("counts from the configuration, and starts and writes nothing", async () => {
    const { stdout, exitCode } = await sparkablate([...line, "--layers", "0..1,-1", "--json"]);
    expect(exitCode).toBe(0);
    // 4 layers of q, o 64 × 64, k, v 64 × 32, three of 64 × 128, two norms; the embedding, tied; the last norm.
    const parameters = 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 100 * 64 + 64;
    expect(JSON.parse(stdout)).toMatchObject({
      ...{ model_type: "llama", n_layers: 4, parameters, seconds: null, begun: false },
      bytes: { float32: 4 * parameters, bfloat16: 2 * parameters, float16: 2 * parameters },
      // The baseline, and 3 layers of 4 heads.
      ...{ conditions: 1 + 12, blocks: 64, batches: 16 },
      notices: ["below float32, 8 null conditions that measure rounding are added"],
    });
    const below = await sparkablate([...line, "--layers", "0..1,-1", "--dtype", "bfloat16", "--json"]);
    expect(JSON.parse(below.stdout)).toMatchObject({ conditions: 1 + 8 + 12, notices: [] });
    expect(readdirSync(join(desk, "work"))).toEqual([]);
    expect(readdirSync(join(desk, "home"))).toEqual([]);
    expect(readdirSync(desk)).not.toContain("started");
  });

  it("opens few files: packages in plain JavaScript are part of the command line's own", async () => {
    const { stderr, exitCode } = await sparkablate(line, ["--import", LOADED]);
    expect(exitCode).toBe(0);
    const loaded = stderr.split("\n").filter((each) => each.startsWith("loaded "));
    expect(loaded.filter((each) => each.includes("/@stdlib/"))).toEqual([]);
    expect(loaded.length).toBeLessThan(100);
  });

  it("prints a config that is the same run, comments included", async () => {
    const { stdout } = await sparkablate(line);
    writeFileSync(join(desk, "again.yaml"), stdout);
    const [first, again] = await Promise.all([
      sparkablate([...line, "--json"]),
      sparkablate(["run", "-c", "../again.yaml", "--dry-run", "--json"]),
    ]);
    const { config: yaml, ...rest } = JSON.parse(first.stdout);
    expect(stdout).toContain(yaml.trimEnd());
    expect(JSON.parse(again.stdout)).toEqual({ ...rest, config: null });
  });
});
