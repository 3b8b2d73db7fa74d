/** One run, from a config to a finished directory: load → tokenize → calibrate → slices → summary. */

import { type RunConfig, withDtype } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import type { Worker } from "../link/worker.ts";
import type { RunRecord } from "../results/facts.ts";
import type { Row } from "../results/row.ts";
import { directoryNow, lookAtModel } from "../store/model-files.ts";
import { RunDirectory, requireBegun } from "../store/run-directory.ts";
import { seenInDamaged } from "../store/seen-tables.ts";
import { databasePath } from "../store/sqlite.ts";
import { readInputs } from "./inputs.ts";
import { recognise } from "./recognise.ts";
import { Sweep } from "./sweep.ts";
import { untilAborted } from "./until-aborted.ts";

/** How a sweep is run, beside what its config says. */
export interface RunOptions {
  /** Told every stage, measurement and notice as it comes. */
  readonly on?: OnEvent | undefined;
  /** Aborting finishes the condition in hand, saves, and ends the iteration with `interrupted`. */
  readonly signal?: AbortSignal | undefined;
  /** Moves an existing directory aside first. */
  readonly fresh?: boolean | undefined;
  /** Measures conditions again that failed before. */
  readonly retryFailed?: boolean | undefined;
  /** Looks at the contents of a finished run's model where time stamps would do. */
  readonly verify?: boolean | undefined;
}

/**
 * Yields a condition's row each time one more batch of it is stored.
 * @param attach gives the worker, held by this run.
 * @param remote whether that worker's files are not this machine's.
 */
export async function* runSweep(
  asked: RunConfig,
  attach: (runId: string) => Promise<Worker>,
  remote: boolean,
  { on = () => undefined, signal, fresh = false, retryFailed = false, verify = false }: RunOptions,
): AsyncGenerator<Row, void> {
  const directory = await openDirectory(asked, fresh, remote, signal);
  let failed = false;
  try {
    const inputs = readInputs(asked);
    const stored = directory.store.run();
    const config = asStored(asked, stored);
    if (stored !== undefined && isOver(stored, directory, retryFailed)) {
      const { path, store } = directory;
      const options = { verify, remote, signal };
      const before = store.seen();
      const recognised = await recognise(config, inputs.digests, stored, before, path, options);
      if (recognised !== null) {
        const { model_checked, notices, seen } = recognised;
        if (JSON.stringify(seen) !== JSON.stringify(before)) store.keepSeen(seen);
        notify(on, notices);
        directory.modelChecked = model_checked;
        on({ type: "recognised", model_checked, unchanged_since: store.unchangedSince() });
        return;
      }
    }
    const runId = stored?.run_id ?? directory.idToBegin();
    const sweep = new Sweep(config, inputs, await untilAborted(attach(runId), signal), on, signal);
    const begun = await untilAborted(sweep.prepare(runId, stored, directory), signal);
    yield* sweep.measure(begun, directory, retryFailed);
    if (directory.store.run()?.facts.finished === null) directory.store.finish(new Date().toISOString());
  } catch (error) {
    failed = true;
    throw error;
  } finally {
    settle(directory, failed);
  }
}

/**
 * Measures one condition of a stored run and the baseline again, on the run's own blocks, and keeps the NLL of every
 * predicted token; what is kept already is not measured.
 * @throws SparkablateError other_run, measurement_conflict where the run's own bits do not come again, interrupted.
 */
export async function keepTokens(
  asked: RunConfig,
  condition: string,
  attach: (runId: string) => Promise<Worker>,
  { on = () => undefined, signal }: Pick<RunOptions, "on" | "signal">,
): Promise<void> {
  const directory = RunDirectory.open(asked.output.dir, false);
  try {
    const inputs = readInputs(asked);
    const stored = requireBegun(directory.store, directory.path);
    const config = asStored(asked, stored);
    const worker = await untilAborted(attach(stored.run_id), signal);
    const sweep = new Sweep(config, inputs, worker, on, signal);
    const { means } = await untilAborted(sweep.prepare(stored.run_id, stored, directory), signal);
    await sweep.keepTokens(condition, means, directory);
  } finally {
    directory.close();
  }
}

/** `dtype: auto` in a directory that has a run is what it was there: 0.1.0's default, or what it became then. */
function asStored(config: RunConfig, stored: RunRecord | undefined): RunConfig {
  const dtype = stored?.identity["config.model.dtype"];
  return dtype === undefined ? config : withDtype(config, JSON.parse(dtype));
}

/** Opens the directory of the run. One that is damaged may be another model's besides, which is said first. */
async function openDirectory(
  { model, output }: RunConfig,
  fresh: boolean,
  remote: boolean,
  signal: AbortSignal | undefined,
): Promise<RunDirectory> {
  try {
    return RunDirectory.open(output.dir, fresh);
  } catch (error) {
    const isDamaged = error instanceof SparkablateError && error.code === "store_corrupt";
    const seen = isDamaged && !remote ? seenInDamaged(databasePath(output.dir)) : null;
    const where = seen && directoryNow(model, seen.model);
    if (seen && where) await lookAtModel(seen.model, where, false, output.dir, signal);
    throw error;
  }
}

/** Whether nothing is left to measure. */
const isOver = ({ facts }: RunRecord, { store }: RunDirectory, retryFailed: boolean): boolean =>
  facts.finished !== null && !(retryFailed && store.failures().size > 0);

/** Brings the derived files up to date and closes. After a failure what fails here too must not hide its cause. */
function settle(directory: RunDirectory, failed: boolean): void {
  const failures: unknown[] = [];
  for (const step of [() => directory.project(), () => directory.close()]) {
    try {
      step();
    } catch (error) {
      failures.push(error);
    }
  }
  if (!failed && failures.length > 0) throw failures[0];
}
