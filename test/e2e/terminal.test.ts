/** What people see: a terminal of 80 columns, with and without colour, CI, a pipe, -q. */
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { cli, LAUNCHER, scratch, standingWorker, sweepFile, tinyModel } from "../fixtures/harness.ts";

standingWorker();

const COLUMNS = 80;
const ESCAPE = "\u001b";
/** Select graphic rendition: colour, bold, dim. */
const hasColour = (text: string): boolean => text.includes(`${ESCAPE}[`) && /\[[\d;]+m/.test(text);
const movesCursor = (text: string): boolean => new RegExp(`${ESCAPE}\\[\\d*[A-HJK]`).test(text);

/** This environment without what decides on colour and redrawing. */
function bare(): NodeJS.ProcessEnv {
  const { CI: _ci, NO_COLOR: _noColor, FORCE_COLOR: _forceColor, ...rest } = process.env;
  return rest;
}

/** All that a command writes to a terminal, escape codes included. */
async function onTerminal(args: readonly string[], env: Record<string, string> = {}): Promise<string> {
  const { stdout, exitCode } = await execa(
    resolveEnvironment().python,
    [
      join(packageRoot(), "test", "fixtures", "terminal.py"),
      String(COLUMNS),
      process.execPath,
      LAUNCHER,
      ...args,
    ],
    { env: { ...bare(), TERM: "xterm-256color", ...env }, extendEnv: false, reject: false },
  );
  expect(exitCode, stdout).toBe(0);
  return stdout;
}

/** Lines that a terminal of 80 columns would break in the middle of a word. */
function brokenLines(text: string): string[] {
  return (
    stripVTControlCharacters(text)
      .split(/\r?\n|\r/)
      // Indented: to be copied. One word: a path.
      .filter((line) => line.length > COLUMNS && !line.startsWith("  ") && /\S\s+\S+\s+\S/.test(line))
  );
}

describe("a sweep", { timeout: 300_000 }, () => {
  const directory = () => {
    const place = scratch();
    const run = (name: string) =>
      sweepFile(place, { model: tinyModel(), output: join(place, name), batches: 4 });
    return { place, run };
  };

  it("on a terminal: no line is broken in a word, progress is redrawn in place with the top so far", async () => {
    const { place, run } = directory();
    const text = await onTerminal(["run", "-c", run("terminal"), "--no-plots"]);
    expect(brokenLines(text)).toEqual([]);
    expect(movesCursor(text)).toBe(true);
    expect(hasColour(text)).toBe(true);
    expect(text).toContain("largest Δ NLL so far");
    expect(text).toMatch(/█+░* {2}\d+ \/ \d+ {2}.* left/);
    const report = await onTerminal(["report", join(place, "terminal"), "--no-plots"], { NO_COLOR: "1" });
    expect(brokenLines(report)).toEqual([]);
    expect(report).not.toContain(ESCAPE);
  });

  it("under NO_COLOR: no colour; under CI: nothing is redrawn", async () => {
    const { run } = directory();
    expect(hasColour(await onTerminal(["run", "-c", run("plain"), "--no-plots"], { NO_COLOR: "1" }))).toBe(
      false,
    );
    const ci = await onTerminal(["run", "-c", run("ci"), "--no-plots"], { CI: "true" });
    expect(movesCursor(ci)).toBe(false);
    expect(brokenLines(ci)).toEqual([]);
  });

  it("into a pipe: whole lines without escape codes; with -q nothing", async () => {
    const { run } = directory();
    const { stdout, stderr } = await cli(["run", "-c", run("pipe"), "--worker", "spawn"]);
    expect(`${stdout}${stderr}`).not.toContain(ESCAPE);
    expect(`${stdout}${stderr}`).not.toMatch(/[█░\r]/);
    expect(stderr).toMatch(/^\S+ \(llama, .* self-test passed/m);
    const quiet = await cli(["run", "-c", run("quiet"), "-q"]);
    expect({ stdout: quiet.stdout, stderr: quiet.stderr }).toEqual({ stdout: "", stderr: "" });
  });
});

describe("other commands", { timeout: 300_000 }, () => {
  it("doctor tells each finding in lines that fit, and none of them in a pipe with codes", async () => {
    expect(brokenLines(await onTerminal(["doctor"]))).toEqual([]);
    const { stdout, stderr } = await cli(["doctor"]);
    expect(`${stdout}${stderr}`).not.toContain(ESCAPE);
  });

  it("compare and bake: lines that fit, no codes in a pipe", async () => {
    const edit = ["-m", tinyModel(), "--kind", "layer", "--layer", "1", "--threads", "1"];
    const prompt = ["--prompt", "Once upon a time", "--max-new-tokens", "8"];
    expect(brokenLines(await onTerminal(["compare", ...edit, ...prompt]))).toEqual([]);
    const compared = await cli(["compare", ...edit, ...prompt]);
    expect(`${compared.stdout}${compared.stderr}`).not.toContain(ESCAPE);
    const out = join(scratch(), "baked");
    expect(brokenLines(await onTerminal(["bake", ...edit, "--out", out]))).toEqual([]);
  });

  it("every command's help has an example", async () => {
    const { stdout } = await cli(["--help"]);
    const names = [...String(stdout).matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name ?? "");
    expect(names.length).toBeGreaterThan(10);
    for (const name of names.filter((one) => one !== "help")) {
      const help = String((await cli([name, "--help"])).stdout);
      expect(help, name).toMatch(new RegExp(`Examples?:\\n(.*\\n)*.*sparkablate ${name}`));
    }
  });
});
