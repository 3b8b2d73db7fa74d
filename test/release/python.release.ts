/** The wheel and the sdist in new virtual environments, without the controller: what a notebook gets. */
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Packages } from "../../scripts/package.ts";
import { constraintsFile, packageRoot, sparkablateHome } from "../../src/environment/environment.ts";
import { packages } from "../fixtures/packages.ts";

const ROOT = packageRoot();
let directory: string;
let made: Packages;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sparkablate-release-"));
  made = await packages(join(directory, "release"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function venv(name: string): Promise<(...args: string[]) => Promise<string>> {
  const place = join(directory, name);
  await execa(process.env.RELEASE_PYTHON ?? "/usr/bin/python3", ["-m", "venv", place]);
  const { PYTHONPATH: _, ...env } = process.env;
  return async (...args) => {
    const options = { cwd: directory, env, extendEnv: false };
    return (await execa(join(place, "bin", "python"), args, options)).stdout;
  };
}

it("the wheel alone: the README's Python, the notebook, the exports", async () => {
  const python = await venv("notebook");
  const pins = ["--constraint", constraintsFile()];
  await python("-m", "pip", "install", "--quiet", ...pins, `${made.wheel}[builtin,results,plot]`, "pytest");
  expect(await python("-c", "import sparkablate; print(sparkablate.__file__)")).toContain("notebook/lib");
  // No server's package is there, and none is missed.
  expect(await python("-m", "pip", "list", "--format", "freeze")).not.toMatch(/^(pyzmq|msgpack|jsonschema)/m);

  // The built-in model that this machine has; making it anew is `sparkablate.builtin`'s test.
  const home = join(directory, "home");
  mkdirSync(join(home, "models"), { recursive: true });
  cpSync(join(sparkablateHome(), "models"), join(home, "models"), { recursive: true });
  const checkout = join(directory, "checkout");
  cpSync(join(ROOT, "test", "python"), join(checkout, "test", "python"), { recursive: true });
  cpSync(join(ROOT, "docs"), join(checkout, "docs"), { recursive: true });
  cpSync(join(ROOT, "configs"), join(checkout, "configs"), { recursive: true });
  copyFileSync(join(ROOT, "README.md"), join(checkout, "README.md"));
  const tests = ["test_docs.py", "test_exports.py"].map((file) => join(checkout, "test", "python", file));
  const counted = await python(
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    // The pages are made in the checkout, from files that no package has.
    "-k",
    "not generated_pages",
    "--rootdir",
    checkout,
    ...tests,
  );
  expect(counted).toMatch(/\d+ passed/);
  expect(counted).not.toMatch(/skipped|failed/);
});

it("the sdist builds, and the server of its extra starts", async () => {
  const python = await venv("server");
  const pins = ["--constraint", constraintsFile()];
  await python("-m", "pip", "install", "--quiet", ...pins, `${made.sdist}[server,datasets]`);
  expect(await python("-m", "sparkablate.server", "--help")).toContain("--bind");
  expect(await python("-c", "import sparkablate.server.protocol as p; print(len(p.SCHEMA_SHA256))")).toBe(
    "64",
  );
});
