/** The real environment, which `npm test` has set up before. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { examine } from "../../../src/environment/doctor.ts";
import { resolveEnvironment } from "../../../src/environment/environment.ts";
import { setUp } from "../../../src/environment/setup.ts";

const MINUTES = 60_000;

describe("setUp", () => {
  beforeAll(async () => {
    await setUp({ dev: true }, () => {});
  }, 30 * MINUTES);

  it("finds everything there, and says where, in less than two seconds", async () => {
    const said: string[] = [];
    const start = performance.now();
    const result = await setUp({ dev: true }, (line) => said.push(line));
    expect(performance.now() - start).toBeLessThan(2_000);
    expect(said).toHaveLength(2);
    expect(said[0]).toContain("environment: ");
    expect(said[1]).toContain(result.model);
    expect(resolveEnvironment()).toEqual({ python: result.python, home: result.home });
    expect(existsSync(join(result.model, "model.safetensors"))).toBe(true);
  });

  it("makes a second set-up wait for the first", async () => {
    const said: string[] = [];
    const both = await Promise.all([setUp({}, () => {}), setUp({}, (line) => said.push(line))]);
    expect(both[0]).toEqual(both[1]);
    expect(said[0]).toMatch(/^waiting for another set-up: .*pid \d+/);
  });

  it(
    "is what doctor calls well",
    async () => {
      const findings = await examine();
      expect(findings.map(({ check }) => check)).toContain("torch");
      expect(findings.filter(({ status }) => status === "failed")).toEqual([]);
    },
    2 * MINUTES,
  );
});

describe("examine", () => {
  it("says for each thing that is missing how to mend it", async () => {
    const before = process.env.SPARKABLATE_HOME;
    try {
      process.env.SPARKABLATE_HOME = "/nonexistent/sparkablate";
      const failed = (await examine()).filter(({ status }) => status === "failed");
      expect(failed.map(({ check }) => check)).toEqual([
        "environment",
        "torch",
        "built-in model",
        "worker",
        "disk",
      ]);
      for (const { mend } of failed) expect(mend).toMatch(/sparkablate setup/);
    } finally {
      if (before === undefined) delete process.env.SPARKABLATE_HOME;
      else process.env.SPARKABLATE_HOME = before;
    }
  });
});
