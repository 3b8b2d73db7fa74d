/** Ctrl-C in a command that has nothing to save: the worker ends at once, and the exit code says why. */
import type { Controller } from "../controller.ts";
import { SparkablateError } from "../errors.ts";

/** @param tidy aborted by the first signal instead, so that what is half-written is removed; the second kills. */
export async function interruptible<T>(
  controller: Controller,
  work: () => Promise<T>,
  tidy?: AbortController,
): Promise<T> {
  let interrupted = false;
  const onSignal = (): void => {
    if (interrupted || tidy === undefined) void controller.kill();
    else tidy.abort();
    interrupted = true;
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  try {
    return await work();
  } catch (cause) {
    if (!interrupted) throw cause;
    throw new SparkablateError("interrupted", "interrupted; nothing was written", {
      cause,
      help: "The same command starts again.",
    });
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
  }
}
