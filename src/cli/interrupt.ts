/** Ctrl-C in a command that has nothing to save: the worker ends at once, and the exit code says why. */
import type { Controller } from "../controller.ts";
import { SparkablateError } from "../errors.ts";

export async function interruptible<T>(controller: Controller, work: () => Promise<T>): Promise<T> {
  let interrupted = false;
  const onSignal = (): void => {
    interrupted = true;
    void controller.kill();
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
