/** The package imported under a Node that is too old: one sentence, before anything else of it runs. */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { scratch } from "../fixtures/harness.ts";
import { linkPackage } from "../fixtures/user-project.ts";

const SENTENCE =
  /^sparkablate needs Node 22 or newer to be imported; this is v\d+\.\d+\.\d+ \(.*\)\. The command sparkablate/;

/** A Node of the PATH before 22; undefined: there is none. */
function oldNode(): string | undefined {
  const found = execFileSync("bash", ["-c", "which -a node || true"], { encoding: "utf8" }).split("\n");
  return found.find((path) => {
    if (path === "") return false;
    const version = execFileSync(path, ["--version"], { encoding: "utf8" });
    return Number(/^v(\d+)/.exec(version)?.[1]) < 22;
  });
}

function project(): string {
  const directory = scratch();
  linkPackage(directory);
  const script = join(directory, "script.mjs");
  writeFileSync(
    script,
    `import("sparkablate").then(({ Controller }) => console.log(typeof Controller), ({ message }) => console.log(message));`,
  );
  return script;
}

it("says which Node is needed", async ({ skip }) => {
  const old = oldNode();
  if (old === undefined) return skip("no Node before 22 is on the PATH");
  const { stdout, exitCode } = await execa(old, [project()], { reject: false });
  expect(exitCode).toBe(0);
  expect(stdout).toMatch(SENTENCE);
});

it("goes by the version that the process says, and lets newer ones in", async () => {
  const script = project();
  const pretending = (version: string) =>
    `data:text/javascript,Object.defineProperty(process.versions,"node",{value:"${version}"})`;
  for (const [version, expected] of [
    ["20.19.0", SENTENCE],
    ["21.9.9", SENTENCE],
    ["22.0.0", /^function$/],
    ["100.1.0", /^function$/],
  ] as const) {
    const { stdout } = await execa(process.execPath, ["--import", pretending(version), script]);
    expect(stdout).toMatch(expected);
  }
});
