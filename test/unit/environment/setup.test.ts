/** The real environment, which `npm test` has set up before. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { beforeAll, describe, expect, it } from "vitest";
import { examine } from "../../../src/environment/doctor.ts";
import { resolveEnvironment, workerDirectory } from "../../../src/environment/environment.ts";
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
    expect(said).toHaveLength(3);
    expect(said[0]).toContain("environment: ");
    expect(said[1]).toBe(`for Python: ${result.python}, which can 'import sparkablate'`);
    expect(said[2]).toContain(result.model);
    expect(resolveEnvironment()).toEqual({ python: result.python, home: result.home });
    expect(existsSync(join(result.model, "model.safetensors"))).toBe(true);
  });

  it("lets its Python import the package, from anywhere and without a variable", async () => {
    const { python } = resolveEnvironment();
    const { PYTHONPATH: _, ...env } = process.env;
    const code =
      "import sparkablate, os; print(os.path.dirname(sparkablate.__file__)); sparkablate.AblationSpec";
    const run = await execa(python, ["-c", code], { cwd: "/", env, extendEnv: false });
    expect(run.stdout).toBe(join(workerDirectory(), "sparkablate"));
    // The copy that set it up last: what another one left there is replaced, and what is gone is passed over.
    const purelib = await execa(python, ["-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]);
    const file = join(purelib.stdout, "sparkablate.pth");
    writeFileSync(file, "/nonexistent/sparkablate/worker\n");
    expect((await execa(python, ["-c", "pass"])).stderr).toBe("");
    await setUp({ dev: true }, () => {});
    expect(readFileSync(file, "utf8")).toBe(`${workerDirectory()}\n`);
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
