/** Errors of the file system that nobody foresaw at their place: real ones, and what a person is told of them. */
import { execFileSync } from "node:child_process";
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { machineError } from "../../src/files.ts";
import { scratch } from "../fixtures/harness.ts";

const told = (work: () => unknown) => {
  try {
    work();
  } catch (error) {
    const { code, message, help, exitCode } = machineError(error) ?? {};
    return { code, message, help, exitCode };
  }
  return null;
};

it.runIf(process.platform === "linux")("a disk that fails is no path that was given wrongly", () => {
  // The kernel's own I/O error: nothing is mapped at the address 0.
  expect(told(() => readFileSync("/proc/self/mem"))).toEqual({
    code: "storage_failed",
    message: expect.stringContaining("EIO"),
    help: "Check the disk that it is on, and run the same command again.",
    exitCode: 3,
  });
});

it.runIf(process.platform === "linux")("a full disk", () => {
  expect(told(() => writeFileSync("/dev/full", "x"))).toMatchObject({
    code: "disk_full",
    message: expect.stringMatching(/^no space left for /),
    exitCode: 3,
  });
});

it("too many open files: the limit, and how to raise it", () => {
  const script = `
    import { openSync } from "node:fs";
    import { machineError } from ${JSON.stringify(join(packageRoot(), "src", "files.ts"))};
    try {
      for (;;) openSync(process.execPath, "r");
    } catch (error) {
      const { code, help } = machineError(error);
      console.log(JSON.stringify({ code, help }));
    }`;
  const node = `ulimit -n 100; exec '${process.execPath}' --input-type=module -e "$SCRIPT"`;
  const text = execFileSync("bash", ["-c", node], { env: { ...process.env, SCRIPT: script } });
  expect(JSON.parse(text.toString())).toEqual({
    code: "storage_failed",
    help: "Raise the limit with 'ulimit -n 4096', and run the same command again.",
  });
});

it("a path that cannot be used stays the input's", () => {
  const directory = scratch();
  const path = join(directory, "loop");
  symlinkSync("loop", path);
  writeFileSync(join(directory, "file"), "");
  for (const one of [path, join(directory, "file", "below"), directory, join(directory, "x".repeat(300))])
    expect(told(() => readFileSync(one))).toMatchObject({
      code: "input_missing",
      help: "Check the path, and that you may read and write there.",
      exitCode: 2,
    });
});

it("what may be a slip of this program stays one", () => {
  expect(machineError(new TypeError("x is undefined"))).toBeUndefined();
  expect(told(() => readFileSync(join(scratch(), "none")))).toEqual({});
});
