/** Runs one sweep on a terminal: progress, Ctrl-C, exit code. Shared by `run` and `quickstart`. */
import type { RunConfig } from "../config/load.ts";
import type { Controller } from "../controller.ts";
import { SparkablateError } from "../errors.ts";
import type { RunEvent } from "../events.ts";
import { rememberRate } from "../run/dry-run.ts";
import type { RunOptions } from "../run/run.ts";
import { type CommonFlags, controllerFor, type WorkerFlags } from "./common.ts";
import { showProgress } from "./progress.ts";
import { onInterrupt } from "./signals.ts";
import { say, words } from "./terminal.ts";

export interface SweepFlags extends CommonFlags, WorkerFlags {
  readonly fresh?: true;
  readonly retryFailed?: true;
  readonly verify?: true;
}

export interface Swept {
  /** Whether the run's model is known to be the config's: loaded, or its files looked at. */
  readonly model_checked: boolean;
  /** Of a run that was finished before: when its rows last changed, in ms since the epoch. */
  readonly unchangedSince?: number;
}

/** Throws `interrupted` after Ctrl-C, with everything measured saved. */
export async function sweep(config: RunConfig, flags: SweepFlags): Promise<Swept> {
  const { fresh = false, retryFailed = false, verify = false } = flags;
  let swept: Swept = { model_checked: true };
  await attended(config, flags, async (controller, { on, signal }) => {
    const watched = (event: RunEvent): void => {
      if (event.type === "recognised")
        swept = { model_checked: event.model_checked, unchangedSince: Date.parse(event.unchanged_since) };
      on?.(event);
    };
    for await (const _row of controller.run(config, { on: watched, signal, fresh, retryFailed, verify }));
  });
  return swept;
}

/** Work on the config's run directory with progress and Ctrl-C. Throws as `sweep`. */
export async function attended(
  config: RunConfig,
  flags: CommonFlags & WorkerFlags,
  work: (controller: Controller, options: Pick<RunOptions, "on" | "signal">) => Promise<void>,
): Promise<void> {
  const controller = controllerFor(flags);
  const progress = showProgress(flags);
  const interrupt = new AbortController();
  let measuring = false;
  const save = (): void => {
    if (!flags.quiet && measuring)
      say(words`\nfinishing the current condition; press Ctrl-C again to stop at once …`);
    interrupt.abort();
  };
  const release = onInterrupt(save, () => void controller.kill());
  try {
    const options = {
      on: (event: RunEvent) => {
        if (event.type === "plan") measuring = true;
        // Another machine's rate says nothing of this one.
        if (event.type === "loaded" && flags.worker?.startsWith("tcp:") !== true)
          rememberRate(config, event.model);
        progress.on(event);
      },
      signal: interrupt.signal,
    };
    await work(controller, options);
  } catch (error) {
    // What could not be saved is not said to be saved.
    if (!interrupt.signal.aborted || isStoreFailure(error)) throw error;
    const saved = measuring
      ? `; what was measured is in ${config.output.dir}`
      : " before the first measurement";
    throw new SparkablateError("interrupted", `interrupted${saved}`, { cause: error });
  } finally {
    progress.end();
    await controller.close();
    release();
  }
}

const isStoreFailure = (error: unknown): boolean =>
  error instanceof SparkablateError && (error.code === "disk_full" || error.code === "store_corrupt");
