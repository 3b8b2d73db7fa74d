/** One run, from a config to a finished directory: load → tokenize → calibrate → slices → summary. */

import { basename } from "node:path";
import { Readable } from "node:stream";
import { identityConfig, type RunConfig, resolvedYaml } from "../config/load.ts";
import {
  type Direction,
  type DirectionFiles,
  directionPaths,
  readDirectionFiles,
  requireWidth,
  sendDirections,
  unpickled,
} from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import { type BatchShape, calibrate, loadModel, sendMeans } from "../link/calls.ts";
import { retryingOnce, type Worker } from "../link/worker.ts";
import { nullConditions, type Plan, planConditions } from "../plan/conditions.ts";
import { peakBytes, sweepCost } from "../plan/cost.ts";
import { type Means, meanSites, sourceModes } from "../plan/needs.ts";
import { batches } from "../plan/slices.ts";
import { type Answer, type LoadedModel, SOURCE_MODES } from "../protocol/messages.ts";
import { measuredMetrics } from "../protocol/metrics.ts";
import type { RunRecord } from "../results/facts.ts";
import { divisor } from "../results/facts.ts";
import { Measurements } from "../results/measurements.ts";
import type { Row } from "../results/row.ts";
import type { ChosenBlocks } from "../samples/blocks.ts";
import type { ChosenItems } from "../samples/items.ts";
import type { Block, ItemBlock } from "../samples/sample.ts";
import { roundsFor } from "../statistics/racing.ts";
import { type Identity, identityOf, requireSameRun } from "../store/fingerprint.ts";
import { directoryNow, filePartsOf, lookAtModel } from "../store/model-files.ts";
import { RunDirectory, requireBegun } from "../store/run-directory.ts";
import { seenInDamaged } from "../store/seen-tables.ts";
import { type BlockRecord, databasePath, type StoredItem } from "../store/sqlite.ts";
import { VERSION } from "../version.ts";
import { readEarlier } from "./earlier-run.ts";
import { measureMissing } from "./evaluate.ts";
import {
  bosOf,
  chooseTexts,
  evaluatedName,
  readTexts,
  shapeToLoad,
  type TextInputs,
  textName,
} from "./prepare.ts";
import { inputsOf, recognise } from "./recognise.ts";
import { measureTokens } from "./token-values.ts";

/** How a sweep is run, beside what its config says. */
export interface RunOptions {
  /** Progress. */
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
  config: RunConfig,
  attach: (runId: string) => Promise<Worker>,
  remote: boolean,
  { on = () => undefined, signal, fresh = false, retryFailed = false, verify = false }: RunOptions,
): AsyncGenerator<Row, void> {
  const directory = await openDirectory(config, fresh, remote, signal);
  let failed = false;
  try {
    const inputs = readInputs(config);
    const stored = directory.store.run();
    if (stored !== undefined && isOver(stored, directory, retryFailed)) {
      const { path, store } = directory;
      const options = { verify, remote, signal };
      const before = store.seen();
      const recognised = await recognise(config, inputs.digests, stored, before, path, options);
      if (recognised !== null) {
        const { model_checked, notices, seen } = recognised;
        if (JSON.stringify(seen) !== JSON.stringify(before)) store.keepSeen(seen);
        for (const message of notices) on({ type: "notice", message });
        on({ type: "recognised", model_checked });
        return;
      }
    }
    const runId = stored?.run_id ?? directory.idToBegin();
    const sweep = new Sweep(config, inputs, await untilAborted(attach(runId), signal), on, signal);
    const { run, means } = await untilAborted(sweep.prepare(runId, stored, directory), signal);
    yield* sweep.measure(run, means, directory, retryFailed);
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
  config: RunConfig,
  condition: string,
  attach: (runId: string) => Promise<Worker>,
  { on = () => undefined, signal }: Pick<RunOptions, "on" | "signal">,
): Promise<void> {
  const directory = RunDirectory.open(config.output.dir, false);
  try {
    const inputs = readInputs(config);
    const stored = requireBegun(directory.store, directory.path);
    const worker = await untilAborted(attach(stored.run_id), signal);
    const sweep = new Sweep(config, inputs, worker, on, signal);
    const { means } = await untilAborted(sweep.prepare(stored.run_id, stored, directory), signal);
    await sweep.keepTokens(condition, means, directory);
  } finally {
    directory.close();
  }
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

/** The work, or `interrupted` at once: before the first measurement there is nothing that waiting could save. */
async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
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

/** The files that the config names, read before any Python starts. Datasets are loaded by the worker. */
interface Inputs extends TextInputs {
  readonly metrics: readonly string[];
  readonly directions: DirectionFiles;
  /** The run that a sweep of pairs starts from. */
  readonly earlier: ReturnType<typeof readEarlier>;
  /** What a later command recognises them by. */
  readonly digests: Readonly<Record<string, string>>;
}

function readInputs(config: RunConfig): Inputs {
  const texts = readTexts(config);
  const earlier = readEarlier(config);
  return {
    ...texts,
    metrics: measuredMetrics(config.eval.metrics, texts.task),
    directions: readDirectionFiles(directionPaths(config)),
    earlier,
    digests: inputsOf(config, earlier),
  };
}

/** Ids of a stored run's conditions that edit something. */
const editedIn = (store: RunDirectory["store"]): ReadonlySet<string> =>
  new Set(
    store
      .conditions()
      .filter(({ interventions }) => interventions.length > 0)
      .map(({ id }) => id),
  );

interface Prepared {
  readonly loaded: LoadedModel;
  readonly plan: Plan;
  readonly blocks: ChosenBlocks | ChosenItems;
  /** Of one batch, as the worker measures it. */
  readonly shape: BatchShape;
  readonly notices: readonly string[];
  readonly identity: Identity;
  readonly directions: ReadonlyMap<string, Direction>;
}

class Sweep {
  readonly #config: RunConfig;
  readonly #inputs: Inputs;
  readonly #worker: Worker;
  readonly #on: OnEvent;
  readonly #signal: AbortSignal | undefined;
  #prepared: Prepared | undefined;

  constructor(
    config: RunConfig,
    inputs: Inputs,
    worker: Worker,
    on: OnEvent,
    signal: AbortSignal | undefined,
  ) {
    this.#config = config;
    this.#inputs = inputs;
    this.#worker = worker;
    this.#on = on;
    this.#signal = signal;
  }

  /** Everything before the first measurement; a new run is written down, an old one is checked. */
  async prepare(
    runId: string,
    stored: RunRecord | undefined,
    directory: RunDirectory,
  ): Promise<{ run: RunRecord; means: Means | null }> {
    const attempt = async () => {
      const prepared = await this.#describe(stored === undefined ? null : editedIn(directory.store));
      this.#prepared = prepared;
      await sendDirections(prepared.directions.values(), this.#worker.client);
      for (const message of prepared.notices) this.#on({ type: "notice", message });
      if (stored !== undefined) {
        const before = directory.store.seen()?.model;
        requireSameRun(
          directory.path,
          { ...stored.identity, ...filePartsOf(before) },
          { ...prepared.identity, ...(before && filePartsOf(prepared.loaded.model_files)) },
        );
        this.#keepSeen(directory);
        const means = directory.store.means();
        if (means !== null) await this.#sendMeans(means);
        return { run: stored, means };
      }
      const means = await calibrate(
        this.#worker.client,
        meanSites(prepared.plan.conditions),
        prepared.blocks.calibration,
        this.#config.eval,
        this.#on,
      );
      if (means !== null) await this.#sendMeans(means);
      const run = this.#record(runId, prepared);
      directory.store.begin(run, blockRecords(prepared.blocks), prepared.plan.conditions, means);
      this.#keepSeen(directory);
      directory.project();
      return { run, means };
    };
    return await retryingOnce(
      attempt,
      () => this.#signal?.aborted ?? false,
      async (error) => {
        this.#on({ type: "restart", error });
        await this.#worker.reconnect();
      },
    );
  }

  /** What a later command recognises the run by. */
  #keepSeen({ store }: RunDirectory): void {
    const { model_files } = (this.#prepared as Prepared).loaded;
    store.keepSeen({ model: model_files, inputs: this.#inputs.digests });
  }

  async *measure(
    run: RunRecord,
    means: Means | null,
    directory: RunDirectory,
    retryFailed: boolean,
  ): AsyncGenerator<Row, void> {
    const { plan, blocks, loaded, directions, shape } = this.#prepared as Prepared;
    const { batch_size, seq_len } = shape;
    const { metrics } = this.#inputs;
    const { store } = directory;
    const { conditions } = plan;
    const answers = answersOf(blocks);
    const answerTokens = answers?.map(({ begin, end }) => end - begin);
    const measurements = new Measurements(
      conditions,
      blocks.evaluation.length,
      divisor(run.facts),
      answerTokens,
    );
    store.forEachSum((condition, block, metric, sum) => measurements.add(condition, block, metric, sum));
    if (!retryFailed) for (const [condition, error] of store.failures()) measurements.fail(condition, error);

    const allBatches = batches(blocks.evaluation.length, batch_size);
    let total = conditions.length * allBatches.length;
    const isDone = (condition: number, batch: readonly number[]): boolean =>
      measurements.hasFailed(condition) || batch.every((block) => measurements.has(condition, block));
    // One batch at a time: of many conditions and batches the lists would outweigh the measurements.
    const missing = allBatches.values().map((batch) => ({
      share: batch.length / batch_size,
      conditions: conditions.filter((_, condition) => !isDone(condition, batch)),
    }));
    const { pairs, ...cost } = sweepCost(missing, loaded, metrics);
    const stored = total - pairs;
    let done = stored;
    const began = performance.now();
    this.#on({
      type: "plan",
      plan: {
        directory: directory.path,
        conditions: conditions.length,
        blocks: blocks.evaluation.length,
        batches: allBatches.length,
        tokens:
          answerTokens === undefined
            ? blocks.evaluation.length * (seq_len - 1)
            : answerTokens.reduce((sum, tokens) => sum + tokens, 0),
        of_task: answers !== null,
        total,
        stored,
        ...cost,
        seconds: cost.seconds / this.#worker.greeting.slots,
        peak_bytes: peakBytes(loaded, { ...shape, metrics, conditions }),
        may_stop: this.#config.stop !== null,
      },
    });

    // Inside a slice the baseline ends last: until then a row would lack the blocks that were just measured.
    const unpaired = new Set<number>();
    const rowOf = (condition: number): Row => measurements.row(condition, run.facts.statistics);
    // Rows go through a stream: measuring does not wait for a slow reader, and a reader that breaks off ends it.
    const rows = new Readable({ objectMode: true, read: () => undefined });
    const stop = new AbortController();
    const signals = this.#signal === undefined ? stop.signal : AbortSignal.any([this.#signal, stop.signal]);
    const work = measureMissing(
      {
        conditions,
        blocks: blocks.evaluation.map(({ ids }) => ids),
        answers,
        sources: blocks.sources,
        batchSize: batch_size,
        seqLen: seq_len,
        metrics,
        meansSha256: means?.sha256 ?? null,
        race: run.facts.statistics.race ?? null,
      },
      this.#worker,
      store,
      measurements,
      {
        onMeasured: (condition) => {
          // A null condition measures rounding; it has no row.
          const isNull = conditions[condition]?.nudge !== undefined;
          const row = isNull ? null : rowOf(condition);
          done++;
          const seconds = (performance.now() - began) / 1000;
          this.#on({
            type: "measured",
            row,
            done,
            total,
            seconds_left: (seconds / (done - stored)) * (total - done),
          });
          if (row === null) return;
          if (!measurements.isPaired(condition)) {
            unpaired.add(condition);
            return;
          }
          rows.push(row);
          if (condition !== 0) return;
          for (const waiting of unpaired) {
            if (!measurements.isPaired(waiting)) continue;
            rows.push(rowOf(waiting));
            unpaired.delete(waiting);
          }
        },
        onSpared: (pairs) => {
          total -= pairs;
        },
        onBatch: () => directory.projectNowAndThen(),
        onNotice: (message) => this.#on({ type: "notice", message }),
        recover: (error) => untilAborted(this.#recover(error, loaded, shape, means, directions), signals),
      },
      signals,
    ).then(
      () => void rows.push(null),
      (error) => void rows.destroy(error),
    );
    try {
      yield* rows;
    } finally {
      stop.abort();
      await work;
    }
  }

  async keepTokens(condition: string, means: Means | null, { store }: RunDirectory): Promise<void> {
    const { plan, blocks, loaded, directions, shape } = this.#prepared as Prepared;
    await measureTokens(
      {
        conditions: plan.conditions,
        condition: plan.conditions.findIndex(({ id }) => id === condition),
        blocks: blocks.evaluation.map(({ ids }) => ids),
        answers: answersOf(blocks),
        shape,
        sources: blocks.sources,
        meansSha256: means?.sha256 ?? null,
      },
      this.#worker,
      store,
      {
        on: this.#on,
        recover: (error) =>
          untilAborted(this.#recover(error, loaded, shape, means, directions), this.#signal),
      },
      this.#signal,
    );
  }

  /** Loads, plans, tokenises and chooses blocks: what the run is. */
  async #describe(stored: ReadonlySet<string> | null): Promise<Prepared> {
    const config = this.#config;
    const directions = await unpickled(this.#inputs.directions, this.#worker.client);
    const { task } = this.#inputs;
    let shape = shapeToLoad(config);
    let loaded = await this.#load(shape);
    if (task === null) this.#on({ type: "loaded", model: loaded });
    requireWidth(directions, loaded.model_map);
    const { earlier } = this.#inputs;
    const edits = planConditions(config, loaded.model_map, directions, earlier, stored);
    if (earlier !== null && earlier.weights_sha256 !== loaded.weights_sha256) {
      edits.notices.push(
        `${config.ablation.from} was measured on other weights: its largest effects need not be this model's`,
      );
    }
    const plan = { ...edits, conditions: [...edits.conditions, ...nullConditions(config, loaded.model_map)] };
    const needs = { means: meanSites(plan.conditions).length > 0, sources: sourceModes(plan.conditions) };
    const blocks = await chooseTexts(this.#worker.client, config, this.#inputs, loaded, needs, this.#on);
    if ("seq_len" in blocks) {
      shape = { ...shape, seq_len: blocks.seq_len };
      const { seconds, reused } = loaded;
      const again = await this.#load(shape);
      loaded = { ...again, seconds: seconds + again.seconds, reused };
      this.#on({ type: "loaded", model: loaded });
    }
    const identity = identityOf({
      config: identityConfig(config),
      loaded,
      task: task?.sha256 ?? null,
      evaluation: blocks.evaluation.map(({ sha256 }) => sha256),
      calibration: blocks.calibration.map(({ sha256 }) => sha256),
      sources: needs.sources.map((mode) => [mode, (blocks.sources[mode] ?? []).map(({ sha256 }) => sha256)]),
      conditions: plan.conditions.map(({ id }) => id),
      directions: [...directions.values()].map(({ sha256, norm }) => `${sha256} ${norm}`),
    });
    const notices = [...loaded.notices, ...plan.notices, ...blocks.notices];
    return { loaded, plan, blocks, shape, notices, identity, directions };
  }

  async #load(shape: BatchShape): Promise<LoadedModel> {
    return await loadModel(this.#worker.client, this.#config.model, shape, this.#on);
  }

  async #sendMeans(means: Means): Promise<void> {
    await sendMeans(this.#worker.client, means);
  }

  /** After the worker was lost: the same model again, or none. */
  async #recover(
    error: SparkablateError,
    loaded: LoadedModel,
    shape: BatchShape,
    means: Means | null,
    directions: ReadonlyMap<string, Direction>,
  ): Promise<void> {
    this.#on({ type: "restart", error });
    await this.#worker.reconnect();
    const again = await this.#load(shape);
    const parts = ({ weights_sha256, tokenizer_sha256, numerics, model_files }: LoadedModel) =>
      Object.entries({ weights_sha256, tokenizer_sha256, numerics, ...filePartsOf(model_files) }).map(
        ([part, value]) => [part, JSON.stringify(value)] as const,
      );
    const before = new Map(parts(loaded));
    const changed = parts(again).find(([part, value]) => before.get(part) !== value);
    if (changed !== undefined || parts(again).length !== before.size) {
      const what = changed?.[0] ?? "files";
      throw new SparkablateError(
        "baseline_changed",
        `after the restart the worker's ${what} differ from before`,
        { cause: error },
      );
    }
    if (means !== null) await this.#sendMeans(means);
    await sendDirections(directions.values(), this.#worker.client);
  }

  #record(runId: string, { loaded, plan, blocks, shape, notices, identity }: Prepared): RunRecord {
    const config = this.#config;
    const { add_bos, seed, calibration } = config.eval;
    const { task } = this.#inputs;
    const text = evaluatedName(config.eval);
    const racers = plan.conditions.filter(({ interventions }) => interventions.length > 0).length;
    const { model_files: _files, ...model } = loaded;
    return {
      run_id: runId,
      identity,
      model,
      notices,
      facts: {
        name: basename(config.output.dir),
        model: config.model.name,
        revision: loaded.revision,
        weights_sha256: loaded.weights_sha256,
        numerics: loaded.numerics,
        text,
        task: task && { sha256: task.sha256, items: task.items.length, wrong: task.wrong },
        calibration:
          blocks.calibration.length === 0 ? null : calibration === null ? text : textName(calibration),
        ...(blocks.sources.resample && {
          resample_source: calibration === null || task !== null ? text : textName(calibration),
        }),
        ...(blocks.sources.patch && { patch_source: this.#inputs.source?.name ?? "" }),
        ...shape,
        bos: bosOf(add_bos, loaded) !== null,
        seed,
        planned_blocks: blocks.evaluation.length,
        planned_conditions: racers,
        sweep: config.ablation.sweep,
        statistics: {
          correction: "bh",
          floor: null,
          race: config.stop && {
            ...config.stop,
            conditions: racers,
            rounds: roundsFor(blocks.evaluation.length, shape.batch_size),
          },
        },
        config: resolvedYaml(config),
        version: VERSION,
        started: new Date().toISOString(),
        finished: null,
      },
    };
  }
}

function* blockRecords({ evaluation, calibration, sources }: ChosenBlocks): Generator<BlockRecord> {
  for (const [split, blocks] of [
    ["evaluation", evaluation],
    ["calibration", calibration],
    ...SOURCE_MODES.map((mode) => [mode, sources[mode] ?? []] as const),
  ] as const) {
    for (const [ordinal, block] of blocks.entries()) {
      const { index, sha256 } = block;
      yield { split, ordinal, position: index, sha256, ...(isItem(block) && { item: storedItem(block) }) };
    }
  }
}

const isItem = (block: Block): block is ItemBlock => "answer" in block;

const storedItem = ({ item, answer }: ItemBlock): StoredItem => ({
  ...item,
  tokens: answer.end - answer.begin,
});

/** null where blocks of a text are evaluated. */
function answersOf({ evaluation }: ChosenBlocks): Answer[] | null {
  const answers = evaluation.filter(isItem).map(({ answer }) => answer);
  return answers.length === 0 ? null : answers;
}
