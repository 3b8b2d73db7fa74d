/** Runs a Python module that cannot outlive us: an orphaned pip would go on writing into the next set-up's files. */
import { SparkablateError } from "../errors.ts";

const LINES_KEPT = 40;

// The thread sees the end of our pipe, whatever ended us, and takes pip's own children along (the process
// leads a group). os.read, not sys.stdin: a buffered reader's lock would abort the interpreter's exit.
const TETHER = `
import os, runpy, signal, sys, threading
def end_with_parent():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end_with_parent, daemon=True).start()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
`;

export interface TetheredOptions {
  readonly env?: Record<string, string>;
  /** Every line of its stdout and stderr, as it comes. */
  readonly onLine?: (line: string) => void;
}

/** `python -m module args…`; throws `environment_missing` with its last lines where it fails. */
export async function runModule(
  python: string,
  module: string,
  args: readonly string[],
  { env = {}, onLine }: TetheredOptions = {},
): Promise<void> {
  const { execa } = await import("execa");
  const child = execa(python, ["-c", TETHER, module, ...args], {
    env,
    all: true,
    buffer: false,
    cleanup: false,
    detached: true,
    reject: false,
    stdin: "pipe",
  });
  const lines: string[] = [];
  for await (const line of child.iterable({ from: "all" })) {
    lines.push(String(line));
    if (lines.length > LINES_KEPT) lines.shift();
    onLine?.(String(line));
  }
  const result = await child;
  if (result.failed) {
    const how =
      result.signal !== undefined ? `was ended by ${result.signal}` : `failed (exit code ${result.exitCode})`;
    throw new SparkablateError("environment_missing", `${python} -m ${module} ${args[0] ?? ""} ${how}`, {
      detail: lines.join("\n") || result.shortMessage,
      help: "Fix what the last lines above say, and run 'sparkablate setup' again; it continues from there.",
    });
  }
}
