/** Real interpreters: what is found, what is refused, and that nothing outlives a killed set-up. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, describe, expect, it } from "vitest";
import { findPython } from "../../../src/environment/python.ts";
import { runModule } from "../../../src/environment/tether.ts";

const directory = mkdtempSync(join(tmpdir(), "sparkablate-python-"));
afterAll(() => rmSync(directory, { recursive: true }));

/** A program that runs the real Python after some statements. */
function pythonAfter(name: string, statements: string): string {
  const file = join(directory, name);
  writeFileSync(file, `#!/bin/sh\nexec python3 -c "import sys; ${statements}; exec(sys.argv[2])" "$@"\n`);
  chmodSync(file, 0o755);
  return file;
}

describe("findPython", () => {
  it("finds one that can make environments", async () => {
    const python = await findPython(undefined);
    expect(python.version).toMatch(/^3\.1[0-4]\.\d+$/);
    expect(python.executable).toMatch(/^\//);
  });

  it("names the Debian package where ensurepip is missing", async () => {
    const { version } = await findPython(undefined);
    const bare = pythonAfter("bare", "sys.modules['ensurepip'] = None");
    const minor = version.split(".")[1];
    await expect(findPython(bare)).rejects.toMatchObject({
      code: "environment_missing",
      message: expect.stringContaining("ensurepip"),
      help: expect.stringContaining(`apt install python3.${minor}-venv`),
    });
  });

  it("refuses a Python that is too old, and one that does not run", async () => {
    const old = pythonAfter("old", "sys.version_info = (3, 9, 18)");
    await expect(findPython(old)).rejects.toMatchObject({
      message: expect.stringContaining("Python 3.9.18"),
    });
    await expect(findPython(join(directory, "none"))).rejects.toMatchObject({
      message: expect.stringContaining("does not run"),
    });
  });
});

describe("runModule", () => {
  it("gives every line, and the last ones with a failure", async () => {
    const lines: string[] = [];
    await runModule("python3", "timeit", ["-n", "1", "-r", "1", "print('at work')"], {
      onLine: (line) => lines.push(line),
    });
    expect(lines).toContain("at work");
    await expect(runModule("python3", "timeit", ["-n", "1", "raise KeyError('gone')"])).rejects.toMatchObject(
      {
        code: "environment_missing",
        detail: expect.stringContaining("KeyError: 'gone'"),
      },
    );
  });

  it("ends the module and its children when the controller is killed", async () => {
    const tether = new URL("../../../src/environment/tether.ts", import.meta.url).href;
    const child = "import os, subprocess, sys, time";
    const work = `${child}; p = subprocess.Popen(['sleep', '60']); print(os.getpid(), p.pid, flush=True); time.sleep(60)`;
    const script = `
      import { runModule } from ${JSON.stringify(tether)};
      await runModule("python3", "timeit", ["-n", "1", "-r", "1", ${JSON.stringify(work)}], { onLine: console.log });
    `;
    const controller = execa(process.execPath, ["--input-type=module", "--eval", script], {
      reject: false,
      buffer: false,
    });
    let pids: number[] = [];
    for await (const line of controller.iterable()) {
      pids = String(line).split(" ").map(Number);
      controller.kill("SIGKILL");
    }
    expect(pids).toHaveLength(2);
    await expect.poll(() => pids.filter(isRunning), { timeout: 5_000 }).toEqual([]);
  });
});

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
