/** Waits that a signal ends. */
import { SparkablateError } from "../errors.ts";

/** The work, or `interrupted` at once: before the first measurement there is nothing that waiting could save. */
export async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const stop = (): void => reject(new SparkablateError("interrupted", "interrupted"));
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}
