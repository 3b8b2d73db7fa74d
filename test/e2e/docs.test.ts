/** docs/, CONTRIBUTING.md and SECURITY.md against the code: tables, commands, configs, links. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { execa } from "execa";
import { describe, expect, it } from "vitest";
import { parseConfig } from "../../src/config/load.ts";
import { packageRoot } from "../../src/environment/environment.ts";
import { ERROR_KINDS } from "../../src/errors.ts";
import { requests } from "../../src/protocol/messages.ts";
import { FLAG_NOTES } from "../../src/report/headline.ts";
import { LAUNCHER, scratch, standingWorker } from "../fixtures/harness.ts";
import { anchored, anchors, commands, fences, localLinks } from "../fixtures/markdown.ts";
import { desk, smaller } from "../fixtures/reader.ts";
import { STORIES } from "../fixtures/story.ts";

standingWorker();

const ROOT = packageRoot();
/** Made for a release, and not kept: here only where somebody made them. */
const REFERENCES = ["api-python.md", "api-typescript.md"];
const pagesOf = (directory: string): string[] =>
  readdirSync(join(ROOT, directory)).filter(
    (name) => /\.(md|ipynb)$/.test(name) && !REFERENCES.includes(name),
  );
const PAGES = [
  "CONTRIBUTING.md",
  "SECURITY.md",
  ...["docs", "docs/dev"].flatMap((directory) =>
    pagesOf(directory)
      .filter((name) => name.endsWith(".md"))
      .map((name) => `${directory}/${name}`),
  ),
];
const read = (page: string): string => readFileSync(join(ROOT, page), "utf8");

/** Not run here, and why. */
const EXCLUDED: Readonly<Record<string, string>> = {
  "npm test": "this is it",
  "npm run check": ".ci/run calls it",
  "npm test -- test/unit/config/load.test.ts": "npm test calls it",
  "npm run test:faults -- --rounds 20 --seed 7": "npm test does a tenth of it",
};

/** Their commands are for machines with containers, GPUs or a cluster: `console` blocks, whose options are checked. */
const ELSEWHERE = ["docs/dgx-spark.md", "docs/scale.md"];

describe("docs", () => {
  it("errors.md lists every code with its exit code and whether it is retried", () => {
    const sections = read("docs/errors.md").split(/^## /m).slice(1);
    const listed = sections.flatMap((section) => {
      const title = section.split("\n", 1)[0] ?? "";
      const exits = [...title.matchAll(/exit (\d+)/g)].map(([, exit]) => Number(exit));
      return [...section.matchAll(/^\| `(\w+)` \| (yes|no) \| (.+?) \| (.+?) \|$/gm)].map(
        ([, code = "", retried, cause = "", cure = ""]) => ({ code, retried, exits, cause, cure }),
      );
    });
    expect(listed.map(({ code }) => code).toSorted()).toEqual(Object.keys(ERROR_KINDS).toSorted());
    for (const { code, retried, exits } of listed) {
      const kind = ERROR_KINDS[code as keyof typeof ERROR_KINDS];
      expect(exits, code).toContain(kind.exit);
      expect(retried, code).toBe(kind.retryable ? "yes" : "no");
    }
  });

  it("protocol.md lists every request", () => {
    const table = read("docs/protocol.md").split("| request |")[1]?.split("\n\n")[0] ?? "";
    const names = [...table.matchAll(/^\| ([^|]+) \|/gm)].flatMap(([, cell = ""]) =>
      [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name),
    );
    expect(names.toSorted()).toEqual(Object.keys(requests).toSorted());
  });

  it("dev/house.md has a line for every room, in the order that the check holds", () => {
    const pages = read("docs/dev/house.md").split("## The worker");
    const tables = read("scripts/check-imports.ts").split("const PYTHON");
    for (const [index, directory] of ["src", "worker/sparkablate"].entries()) {
      const named = [...(pages[index] ?? "").matchAll(/^\| `(\w+\/)` \|/gm)].map(([, name]) => name);
      const rooms = readdirSync(join(ROOT, directory), { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && !entry.name.startsWith("__"))
        .map(({ name }) => `${name}/`);
      expect(named.toSorted()).toEqual(rooms.toSorted());
      const [list = ""] = (tables[index] ?? "").split("\n];");
      expect([...list.matchAll(/"(\w+\/)/g)].map(([, name]) => name)).toEqual(named);
    }
  });

  it("reading-the-numbers.md explains every flag", () => {
    const page = read("docs/reading-the-numbers.md");
    for (const { short } of Object.values(FLAG_NOTES)) expect(page).toContain(`| ${short} |`);
  });

  it("every config in them is valid", () => {
    const directory = scratch();
    writeFileSync(join(directory, "my-examples.txt"), "text");
    writeFileSync(join(directory, "capitals.jsonl"), '{"prompt": "a", "answer": "b"}');
    mkdirSync(join(directory, "results", "heads"), { recursive: true });
    writeFileSync(join(directory, "results", "heads", "results.sqlite"), "");
    const configs = PAGES.flatMap((page) => fences(read(page)).filter(({ language }) => language === "yaml"));
    expect(configs.length).toBeGreaterThan(2);
    for (const { text } of configs) {
      const config = parseConfig(`model: {name: "builtin:smollm2-135m"}\n${text}`, "page", {
        cwd: directory,
      });
      expect(config.model.name).toBe("builtin:smollm2-135m");
    }
  });

  it("every command in them works", { timeout: 300_000 }, async () => {
    const directory = scratch();
    const { env } = desk(directory);
    for (const command of PAGES.flatMap((page) => commands(read(page)))) {
      const reason = EXCLUDED[command];
      if (reason !== undefined) {
        console.log(`not run: ${command}: ${reason}`);
        continue;
      }
      const options = { shell: "/bin/bash", cwd: directory, env, reject: false } as const;
      const { exitCode, stderr } = await execa(smaller(command), options);
      expect(exitCode, `${command}\n${stderr}`).toBe(0);
    }
  });

  it("commands stand in blocks that are run", () => {
    for (const page of PAGES) {
      for (const { language, text } of fences(read(page))) {
        expect(["bash", "sh", "text", "yaml", "python", "ts", "sql", "console"], page).toContain(language);
        if (language === "console") expect(ELSEWHERE).toContain(page);
        if (language === "sh")
          expect(Object.keys(STORIES).map((story) => `docs/${story}.md`)).toContain(page);
        if (language === "text") expect(text, page).not.toMatch(/^(npx|npm) /m);
      }
    }
  });

  it("commands inside sentences and for other machines exist, with their options", {
    timeout: 300_000,
  }, async () => {
    const helps = new Map<string, string>();
    const helpOf = async (...names: string[]): Promise<string> => {
      const key = names.join(" ");
      const known = helps.get(key) ?? (await execa(process.execPath, [LAUNCHER, ...names, "--help"])).stdout;
      helps.set(key, known);
      return known;
    };
    for (const page of PAGES) {
      const text = read(page);
      const prose = text.replaceAll(/^ *```.*?^ *```$/gms, "");
      const inSentences = [...prose.matchAll(/`(?:npx )?sparkablate ([a-z]+[^`]*)`/g)];
      const inBlocks = fences(text)
        .filter(({ language }) => language === "console")
        .flatMap((fence) => [...fence.text.matchAll(/sparkablate ([a-z]+.*)$/gm)]);
      for (const [, command = ""] of [...inSentences, ...inBlocks]) {
        const [, name = "", below] = /^([a-z]+)(?: ([a-z]+)\b)?/.exec(command) ?? [];
        const known = (await helpOf(name)) + (below === undefined ? "" : await helpOf(name, below));
        expect(known, `${page}: ${name}`).toContain(`Usage: sparkablate ${name}`);
        for (const [option] of command.matchAll(/(?<![\w-])--?[a-z][a-z-]*/g))
          expect(known, `${page}: ${command} ${option}`).toContain(option);
      }
    }
    expect(helps.size).toBeGreaterThan(5);
  });

  it("README.md of docs/ lists every page", () => {
    const listed = localLinks(read("docs/README.md"));
    const pages = ["", "dev/"].flatMap((folder) =>
      pagesOf(`docs/${folder}`).map((name) => `${folder}${name}`),
    );
    expect(listed.toSorted()).toEqual(pages.filter((name) => name !== "README.md").toSorted());
  });

  it("every link leads somewhere", () => {
    for (const page of PAGES)
      for (const link of localLinks(read(page)))
        expect(existsSync(join(ROOT, dirname(page), link)), `${page}: ${link}`).toBe(true);
  });

  it("every link to a heading finds it", () => {
    const links = [...PAGES, "README.md"].flatMap((page) =>
      anchored(read(page)).map(([target, anchor]) => ({
        page,
        to: target === "" ? page : join(dirname(page), target),
        anchor,
      })),
    );
    expect(links.length).toBeGreaterThan(10);
    for (const { page, to, anchor } of links) expect(anchors(read(to)), `${page} → ${to}`).toContain(anchor);
  });

  it("every page that the program names is there", () => {
    const places = ["src", "worker/sparkablate", "configs", "bin", "docker"];
    const named = places.flatMap((place) =>
      readdirSync(join(ROOT, place), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && /\.(ts|py|cjs|yaml|sh)$/.test(entry.name))
        .flatMap(({ parentPath, name }) => [
          ...readFileSync(join(parentPath, name), "utf8").matchAll(/\bdocs\/[\w-]+\.md(?:#([\w-]+))?/g),
        ]),
    );
    expect(named.length).toBeGreaterThan(10);
    for (const [page, anchor] of named) {
      const path = page.split("#", 1)[0] ?? "";
      expect(existsSync(join(ROOT, path)), page).toBe(true);
      if (anchor !== undefined) expect(anchors(read(path)), page).toContain(anchor);
    }
  });
});
