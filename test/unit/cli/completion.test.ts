import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, Option } from "commander";
import { execa, execaSync } from "execa";
import { afterAll, describe, expect, test } from "vitest";
import { bashCompletion } from "../../../src/cli/completion/bash.ts";
import { fishCompletion } from "../../../src/cli/completion/fish.ts";
import { commandWords } from "../../../src/cli/completion/words.ts";
import { zshCompletion } from "../../../src/cli/completion/zsh.ts";
import { needing } from "../../fixtures/require.ts";

const MAIN = fileURLToPath(new URL("../../../src/cli/main.ts", import.meta.url));
const desk = mkdtempSync(join(tmpdir(), "completion-"));
afterAll(() => rmSync(desk, { recursive: true }));
mkdirSync(join(desk, "results", "heads"), { recursive: true });
writeFileSync(join(desk, "my sweep.yaml"), "");
writeFileSync(join(desk, "other.yaml"), "");

const { stdout: script } = execaSync(process.execPath, [MAIN, "completion", "bash"]);

/** What bash offers for a line whose last word the cursor stands in. */
function offered(...words: string[]): string[] {
  const { stdout, stderr } = execaSync(
    "bash",
    [
      "--norc",
      "-c",
      `eval "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _sparkablate; printf '%s\\n' "\${COMPREPLY[@]}"`,
      "bash",
      "sparkablate",
      ...words,
    ],
    { cwd: desk, env: { SCRIPT: script } },
  );
  expect(stderr).toBe("");
  return stdout.split("\n").filter((line) => line !== "");
}

describe("in bash", () => {
  test("every command, and what begins like the word", async () => {
    const { stdout } = await execa(process.execPath, [MAIN, "--help"]);
    const commands = [...(stdout.split("Commands:")[1] ?? "").matchAll(/^ {2}([a-z]+)/gm)].map(
      ([, name]) => name,
    );
    expect(commands).toContain("completion");
    expect(offered("").filter((word) => !word.startsWith("-"))).toEqual(
      commands.filter((name) => name !== "help"),
    );
    expect(offered("re")).toEqual(["report"]);
  });

  test("a command's options, their choices, and files with spaces", () => {
    expect(offered("report", "--w")).toEqual(["--worker", "--wait", "--watch"]);
    expect(offered("report", "--format", "")).toEqual(["table", "csv", "md", "json"]);
    expect(offered("run", "-q", "-c", "my")).toEqual(["my sweep.yaml"]);
    expect(offered("run", "--config", "")).toEqual(expect.arrayContaining(["my sweep.yaml", "other.yaml"]));
    expect(offered("report", "--top", "")).toEqual([]);
  });

  test("directories and choices where arguments stand", () => {
    expect(offered("report", "res")).toEqual(["results"]);
    expect(offered("report", "results/heads", "results/")).toEqual(["results/heads"]);
    expect(offered("keys", "")).toEqual(["init"]);
    expect(offered("completion", "f")).toEqual(["fish"]);
  });

  test("nothing for a command that is none, and nothing is run", () => {
    expect(offered("destroy", "")).toEqual([]);
    expect(offered("report", "$(touch hacked)", "")).not.toContain("hacked");
  });
});

const odd = new Command("tool").addCommand(
  new Command("go")
    .description("it's: [odd] \\ $(text)")
    .addOption(new Option("--say <word>", "don't: [x] \\ `y`").choices(["a", "b"]))
    .option("-f, --file <file>", "a file"),
);

const MAKERS = { bash: bashCompletion, zsh: zshCompletion, fish: fishCompletion };
for (const [shell, make] of Object.entries(MAKERS)) {
  needing(
    shell,
    () => execaSync("which", [shell], { reject: false }).exitCode === 0,
    `${shell} is not installed`,
  )(`${shell} reads its script, whatever stands in a description`, { timeout: 60_000 }, () => {
    const path = join(desk, `completion.${shell}`);
    writeFileSync(path, make("tool", commandWords(odd)));
    const { exitCode, stderr } = execaSync(shell, ["-n", path], { reject: false });
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  });
}

test("an unknown shell is refused with those that are known", async () => {
  const run = (...args: string[]) =>
    execa(process.execPath, [MAIN, "completion", ...args], { reject: false, env: { SHELL: "/bin/tcsh" } });
  expect(await run("tcsh")).toMatchObject({ exitCode: 2, stdout: "" });
  const other = await run();
  expect(other).toMatchObject({ exitCode: 2, stdout: "" });
  expect(other.stderr).toContain("bash, zsh, fish");
});
