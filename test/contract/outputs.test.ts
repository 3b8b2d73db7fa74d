/**
 * What the command line says, to the byte: the help of every command, and every form of a report of the run directories
 * that 0.1.0 left. After a change that is meant, `GOLDEN=new npm test -- test/contract/outputs.test.ts` writes
 * `outputs/` anew; its diff is what users will see.
 */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { program } from "../../src/cli/program.ts";
import { reportCommand } from "../../src/cli/report.ts";
import { FORMATS } from "../../src/cli/report-flags.ts";
import { agree } from "../../src/report/agreement/agreement.ts";
import { renderAgreementPage } from "../../src/report/agreement/page.ts";
import { auditModes } from "../../src/report/modes/audit.ts";
import { renderPage } from "../../src/report/page.ts";
import { surveyOf } from "../../src/report/survey.ts";
import { readBlockRun } from "../../src/store/block-run.ts";
import { readPacked } from "../../src/store/run-directory.ts";
import { readTokenRuns } from "../../src/store/token-run.ts";

const OUTPUTS = join(import.meta.dirname, "outputs");
const RUNS = join(import.meta.dirname, "..", "fixtures", "runs-0.1.0", "runs");
const NAMES = readdirSync(RUNS).sort();
const anew = process.env.GOLDEN === "new";
const held = new Set<string>();

beforeAll(() => {
  const desk = mkdtempSync(join(tmpdir(), "sparkablate-outputs-"));
  const home = process.cwd();
  cpSync(RUNS, desk, { recursive: true });
  process.chdir(desk);
  vi.stubEnv("NO_COLOR", "1");
  vi.stubEnv("FORCE_COLOR", undefined);
  if (anew) rmSync(OUTPUTS, { recursive: true, force: true });
  return () => {
    vi.unstubAllEnvs();
    process.chdir(home);
    rmSync(desk, { recursive: true });
  };
});

/** Compares with the committed file, or writes it. */
function hold(name: string, text: string): void {
  const path = join(OUTPUTS, name);
  held.add(name);
  if (anew) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }
  expect(text, name).toBe(readFileSync(path, "utf8"));
}

/** The commands and, of those that have some, their own. */
function commandsOf(command: Command, name = command.name()): [string, Command][] {
  return [
    [name, command],
    ...command.commands.flatMap((inner) => commandsOf(inner, `${name}-${inner.name()}`)),
  ];
}

const root = await program();

describe("the help", () => {
  it("lists the commands alike whether or not they are loaded", async () => {
    expect((await program("")).helpInformation()).toBe(root.helpInformation());
    expect((await program("report")).helpInformation()).toBe(root.helpInformation());
  });

  it.each(commandsOf(root))("of %s", (name, command) => {
    let text = "";
    const writeOut = (part: string): void => {
      text += part;
    };
    command.configureOutput({ writeOut, getOutHelpWidth: () => 80, getOutHasColors: () => false });
    command.outputHelp();
    expect(text).toContain("Usage: sparkablate");
    hold(`help/${name}.txt`, text);
  });
});

describe("the report", () => {
  afterEach(() => vi.restoreAllMocks());

  async function reported(...args: string[]): Promise<string> {
    let text = "";
    vi.spyOn(process.stdout, "write").mockImplementation((part) => {
      text += String(part);
      return true;
    });
    await reportCommand().parseAsync([...args, "--no-plots"], { from: "user" });
    return text;
  }

  it.each(NAMES)("of %s", async (name) => {
    // `tokens` is `heads` with some values by token, which its page alone shows.
    for (const format of name === "tokens" ? [] : FORMATS)
      hold(`report/${name}/${format}.txt`, await reported(name, "--format", format));
    hold(`report/${name}/page.txt`, pageText(runPage(name)));
  });

  it("of some conditions alone", async () => {
    for (const format of FORMATS.filter((name) => name !== "json"))
      hold(`report/top/${format}.txt`, await reported("heads", "--top", "3", "--format", format));
  });

  it("of a condition's tokens", async () => {
    for (const format of ["table", "json"])
      hold(
        `report/by-token/${format}.txt`,
        await reported("tokens", "--tokens", "L1.head[2].mean", "--format", format),
      );
  });

  it("of several runs", async () => {
    const names = ["heads", "stop", "pairs"];
    for (const format of FORMATS)
      hold(`report/agreement/${format}.txt`, await reported(...names, "--format", format));
    const runs = names.map((name, at) => ({
      run: readBlockRun(name),
      letter: "ABC"[at] as string,
      name,
      directory: name,
    }));
    const [a, b, c] = runs as [(typeof runs)[0], (typeof runs)[0], (typeof runs)[0]];
    const page = renderAgreementPage(runs, [agree(a, b), agree(a, c), agree(b, c)]);
    hold("report/agreement/page.txt", pageText(page));
  });

  function runPage(name: string): Iterable<string> {
    const { rows, facts } = readPacked(name);
    const audit = surveyOf(rows).modes.length > 1 ? auditModes(readBlockRun(name)) : null;
    return renderPage(rows, facts, audit, readTokenRuns(name));
  }
});

/** A page's words and data, without the programs and styles in it. */
function pageText(page: Iterable<string>): string {
  return [...page]
    .join("")
    .replace(/<meta http-equiv="Content-Security-Policy"[^>]*>/, "")
    .replaceAll(/<(script|style)>[\s\S]*?<\/\1>/g, "")
    .replace(
      /(<script type="application\/json" id="data">)([\s\S]*?)(<\/script>)/,
      (_, open, data, close) => `${open}${JSON.stringify(JSON.parse(data), null, 1)}${close}`,
    );
}

afterAll(() => {
  const files = readdirSync(OUTPUTS, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name).slice(OUTPUTS.length + 1));
  expect(files.sort()).toEqual([...held].sort());
});
