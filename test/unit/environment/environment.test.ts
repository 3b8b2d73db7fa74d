import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  constraintsFile,
  type EnvironmentRecord,
  forgetRecord,
  packageRoot,
  readRecord,
  resolveEnvironment,
  sparkablateHome,
  writeRecord,
} from "../../../src/environment/environment.ts";
import { packageName } from "../../../src/environment/torch.ts";
import { readRequirements } from "../../../src/environment/venv.ts";

const finished: EnvironmentRecord = {
  venv: "venv-0123",
  torch_build: "cpu",
  torch_version: "2.13.0+cpu",
  python_version: "3.11.7",
  base_python: "/usr/bin/python3",
  system_site_packages: false,
  requirements: ["torch>=2.10"],
};
const missing = expect.objectContaining({ code: "environment_missing", exitCode: 3 });

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), "sparkablate-home-"));
});
afterEach(() => rmSync(home, { recursive: true }));

function makeVenv(): void {
  mkdirSync(join(home, finished.venv, "bin"), { recursive: true });
  writeFileSync(join(home, finished.venv, "bin", "python"), "");
}

describe("resolveEnvironment", () => {
  it("finds what set-up finished", () => {
    makeVenv();
    writeRecord(home, finished);
    expect(resolveEnvironment(home)).toEqual({ home, python: join(home, "venv-0123", "bin", "python") });
    expect(readRecord(home)).toEqual(finished);
  });

  it("is missing in an empty home and in one that does not exist", () => {
    expect(() => resolveEnvironment(home)).toThrow(missing);
    expect(() => resolveEnvironment(join(home, "nowhere"))).toThrow(missing);
  });

  it("is missing while it is being changed", () => {
    makeVenv();
    writeRecord(home, finished);
    forgetRecord(join(home, finished.venv));
    expect(() => resolveEnvironment(home)).toThrow(missing);
  });

  it("is missing where its Python is gone", () => {
    makeVenv();
    writeRecord(home, finished);
    rmSync(join(home, finished.venv, "bin"), { recursive: true });
    expect(() => resolveEnvironment(home)).toThrow(missing);
  });
});

describe("the package", () => {
  it("has its root where package.json is", () => {
    expect(JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")).name).toBe("sparkablate");
  });

  it("makes a relative SPARKABLATE_HOME absolute", () => {
    const before = process.env.SPARKABLATE_HOME;
    try {
      process.env.SPARKABLATE_HOME = "some/where";
      expect(sparkablateHome()).toBe(join(process.cwd(), "some", "where"));
    } finally {
      if (before === undefined) delete process.env.SPARKABLATE_HOME;
      else process.env.SPARKABLATE_HOME = before;
    }
  });

  it("pins every package that pyproject.toml requires", () => {
    const pinned = new Set(readFileSync(constraintsFile(), "utf8").split("\n").map(packageName));
    const requirements = readRequirements(["server", "datasets", "builtin", "results", "dev"]);
    expect(requirements.length).toBeGreaterThan(5);
    expect(requirements.map(packageName).filter((name) => !pinned.has(name))).toEqual([]);
  });
});
