/** One version everywhere, an entry for it in the changelog, and nothing that is not committed. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";

const ROOT = packageRoot();
const read = (file: string): string => readFileSync(join(ROOT, file), "utf8");
const { version } = JSON.parse(read("package.json")) as { version: string };

it("package-lock.json and the Python package have package.json's version", () => {
  const lock = JSON.parse(read("package-lock.json"));
  expect([lock.version, lock.packages[""].version]).toEqual([version, version]);
  expect(read("worker/sparkablate/version.py")).toContain(`__version__ = "${version}"`);
});

it("CHANGELOG.md begins with this version, and says what is in it", () => {
  const [, first = ""] = read("CHANGELOG.md").split(/^## /m);
  expect(first.split("\n", 1)[0]).toBe(version);
  expect(first).toMatch(/^- /m);
});

it("what is packed is committed", async () => {
  const { stdout } = await execa("git", ["status", "--porcelain"], { cwd: ROOT });
  expect(stdout).toBe("");
});
