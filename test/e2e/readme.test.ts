/** The README: every command is run, every snippet works, the tree is the file system's, every link leads somewhere. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { LAUNCHER, processesOf, scratch, until } from "../fixtures/harness.ts";
import { commands, fences, localLinks } from "../fixtures/markdown.ts";
import { desk, lookalike, smaller } from "../fixtures/reader.ts";
import { linkPackage, typeErrors } from "../fixtures/user-project.ts";

const ROOT = packageRoot();
const README = readFileSync(join(ROOT, "README.md"), "utf8");

/** Not run here, and why. */
const EXCLUDED: Readonly<Record<string, string>> = {
  "npm run quickstart": "set-up and a sweep of minutes; .ci/run's set-up and e2e/run.test.ts cover its parts",
  "npm test": "this is it",
};

const WORKER = "npx sparkablate worker";

describe("README.md", () => {
  it("every command works, in the order in which a reader types them but for the worker's", {
    timeout: 600_000,
  }, async () => {
    const directory = scratch();
    const { env, socket } = desk(directory);
    const listed = commands(README);
    expect(listed.length).toBeGreaterThan(10);
    // The first run starts a worker of its own; then the reader's stands, and nothing else has to import torch.
    const later = listed.filter((command) => command !== WORKER);
    expect(later.length).toBe(listed.length - 1);
    const first = later.findIndex((command) => command.startsWith("npx sparkablate run -c"));
    for (const command of later.toSpliced(first + 1, 0, WORKER)) {
      const reason = EXCLUDED[command];
      if (reason !== undefined) {
        console.log(`not run: ${command}: ${reason}`);
        continue;
      }
      const options = { shell: "/bin/bash", cwd: directory, env, reject: false } as const;
      if (command === WORKER) {
        // A terminal of its own.
        void execa(command, { ...options, stdio: "ignore" });
        await until(() => existsSync(socket), 120, "the worker listens");
        continue;
      }
      // The pip of the desk, whatever else the shell would find first.
      const typed = command.startsWith("pip ") ? `bin/${command}` : smaller(command);
      const { exitCode, stderr } = await execa(typed, options);
      expect(exitCode, `${command}\n${stderr}`).toBe(0);
    }
    for (const made of [
      "results/head_sweep/plots/heads.png",
      "results/custom_targets/report.html",
      "results/my-sweep/results.jsonl",
      "baked/no-3-7/model.safetensors",
      "site/sparkablate/server/schema.json",
    ]) {
      expect(existsSync(join(directory, made)), made).toBe(true);
    }
    // Ctrl-C in the worker's terminal.
    for (const { pid, command } of processesOf(directory))
      if (command.includes("sparkablate.cjs") || command.includes("main.js")) process.kill(pid, "SIGINT");
    await until(() => processesOf(directory).length === 0, 30, "the worker ends");
  });

  it("npx finds the command in a checkout", async () => {
    const { stdout } = await execa("npx", ["sparkablate", "--version"], { cwd: ROOT });
    const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
    expect(stdout).toBe(version);
  });

  it("lists exactly the commands that exist", async () => {
    const { stdout } = await execa(process.execPath, [LAUNCHER, "--help"]);
    const existing = [...stdout.matchAll(/^ {2}([a-z]+) .*/gm)].map(([, name]) => name);
    const table = README.slice(README.indexOf("## Commands"), README.indexOf("Exit codes:"));
    const listed = [...table.matchAll(/^\| `([a-z]+)/gm)].map(([, name]) => name);
    expect(listed.toSorted()).toEqual(existing.filter((name) => name !== "help").toSorted());
    for (const name of listed) {
      const row = table.split("\n").find((line) => line.startsWith(`| \`${name}`)) ?? "";
      const help = (await execa(process.execPath, [LAUNCHER, name ?? "", "--help"])).stdout;
      for (const [option] of row.matchAll(/(?<![\w-])--?[a-z][a-z-]*/g))
        expect(help, `${name} ${option}`).toContain(option);
    }
  });

  it("the TypeScript example type-checks under strict and runs", { timeout: 180_000 }, async () => {
    const directory = scratch();
    linkPackage(directory);
    mkdirSync(join(directory, "configs"));
    const config = readFileSync(join(ROOT, "configs", "smoke_test.yaml"), "utf8");
    writeFileSync(
      join(directory, "configs", "smoke_test.yaml"),
      config.replace("builtin:smollm2-135m", lookalike()),
    );
    const [example] = fences(README).filter(({ language }) => language === "ts");
    writeFileSync(join(directory, "example.mts"), example?.text ?? "");
    expect(await typeErrors(directory, ["example.mts"], "typescript-7")).toBe("");
    const ran = await execa(process.execPath, ["example.mts"], {
      cwd: directory,
      env: { SPARKABLATE_TEST_MARK: directory, OMP_NUM_THREADS: "1" },
      reject: false,
    });
    expect(ran.exitCode, ran.stderr).toBe(0);
    expect(ran.stdout).toContain("L29.layer.skip");
    expect(ran.stdout).toMatch(/^4 \d{4}-\d{2}-\d{2}T/m);
    expect(processesOf(directory)).toEqual([]);
  });

  it("the tree names what is there, and leaves no directory out", () => {
    const tree =
      fences(README).find(({ language, text }) => language === "text" && text.includes("src/ "))?.text ?? "";
    const listed = treePaths(tree);
    for (const path of listed) expect(existsSync(join(ROOT, path)), path).toBe(true);
    const top = readdirSync(ROOT, { withFileTypes: true })
      .filter(({ name }) => !name.startsWith(".") && !IGNORED.has(name))
      .map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name));
    expect(listed.filter((path) => /^[^/]+\/?$/.test(path)).toSorted()).toEqual(top.toSorted());
    for (const parent of ["src/", "worker/sparkablate/", "test/"]) {
      const inside = readdirSync(join(ROOT, parent), { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && !IGNORED.has(entry.name))
        .map(({ name }) => `${parent}${name}/`);
      expect(listed, parent).toEqual(expect.arrayContaining(inside));
    }
  });

  it("every link to a file leads somewhere", () => {
    const links = localLinks(README);
    expect(links.length).toBeGreaterThan(5);
    for (const link of links) expect(existsSync(join(ROOT, link)), link).toBe(true);
  });
});

/** What .gitignore keeps out of the repository. */
const IGNORED = new Set(
  readFileSync(join(ROOT, ".gitignore"), "utf8")
    .split("\n")
    .map((line) => line.replace(/^\/|\/$/g, "")),
);

/** Paths of an indented tree; a directory ends with a slash. */
function treePaths(tree: string): string[] {
  const parents: string[] = [];
  return tree
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const depth = (line.length - line.trimStart().length) / 2;
      const name = line.trim().split(" ", 1)[0] ?? "";
      parents[depth] = name;
      return parents.slice(0, depth + 1).join("");
    });
}
