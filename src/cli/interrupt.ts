/** Ctrl-C in a command that has nothing to save: it ends at once, and the exit code says why. */
import type { Controller } from "../controller.ts";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import type { CommonFlags } from "./common.ts";
import { showProgress } from "./progress.ts";
import { onInterrupt } from "./signals.ts";

/**
 * The worker ends with the first press, even one that is still starting.
 * @param tidy aborted by the first press instead, so that what is half-written is removed; the second kills.
 */
export async function interruptible<T>(
  controller: Controller,
  work: () => Promise<T>,
  tidy?: AbortController,
): Promise<T> {
  let interrupted = false;
  const kill = (): void => {
    interrupted = true;
    void controller.kill();
  };
  const clear = (): void => {
    interrupted = true;
    tidy?.abort();
  };
  const release = tidy === undefined ? onInterrupt(kill) : onInterrupt(clear, kill);
  try {
    const result = await work();
    // A checkpoint that appeared all the same is told; an answer to somebody who has left is not.
    if (interrupted && tidy === undefined) throw ended();
    return result;
  } catch (cause) {
    throw interrupted ? ended(cause) : cause;
  } finally {
    release();
  }
}

/** As `interruptible`, with progress on the terminal. */
export async function watched<T>(
  controller: Controller,
  flags: CommonFlags,
  work: (on: OnEvent) => Promise<T>,
  tidy?: AbortController,
): Promise<T> {
  const progress = showProgress(flags);
  return await interruptible(controller, () => work(progress.on), tidy).finally(() => progress.end());
}

/** Work that may be left at any moment: what it started ends with us. @param work is told when. */
export async function leavable<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const left = new AbortController();
  const { promise: interrupted, reject } = Promise.withResolvers<never>();
  const release = onInterrupt(() => {
    left.abort();
    reject(
      new SparkablateError("interrupted", "interrupted", { help: "Run the same command again to continue." }),
    );
  });
  try {
    return await Promise.race([work(left.signal), interrupted]);
  } finally {
    release();
  }
}

const ended = (cause?: unknown): SparkablateError =>
  new SparkablateError("interrupted", "interrupted; nothing was written", {
    cause,
    help: "The same command starts again.",
  });
