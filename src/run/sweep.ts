/** What a run does with its worker: prepare, measure, values a token; a worker that dies is brought back. */

import { basename } from "node:path";
import { Readable } from "node:stream";
import { identityConfig, type RunConfig, resolvedYaml } from "../config/load.ts";
import { type Direction, requireWidth, sendDirections, unpickled } from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import { type BatchShape, calibrate, loadModel, sendMeans } from "../link/calls.ts";
import { retryingOnce, type Worker } from "../link/worker.ts";
import { nullConditions, type Plan, planConditions } from "../plan/conditions.ts";
import { peakBytes, sweepCost } from "../plan/cost.ts";
import { type Means, meanSites, sourceModes } from "../plan/needs.ts";
import { batches } from "../plan/slices.ts";
import type { LoadedModel } from "../protocol/messages.ts";
import { divisor, type RunRecord } from "../results/facts.ts";
import { Measurements } from "../results/measurements.ts";
import type { Row } from "../results/row.ts";
import type { ChosenBlocks } from "../samples/blocks.ts";
import type { ChosenItems } from "../samples/items.ts";
import { roundsFor } from "../statistics/racing.ts";
import { type Identity, identityOf, requireSameRun } from "../store/fingerprint.ts";
import { filePartsOf } from "../store/model-files.ts";
import type { RunDirectory } from "../store/run-directory.ts";
import { VERSION } from "../version.ts";
import { measureMissing } from "./evaluate.ts";
import type { Inputs } from "./inputs.ts";
import { bosOf, chooseTexts, evaluatedName, shapeToLoad, textName } from "./prepare.ts";
import { answersOf, blockRecords } from "./records.ts";
import { measureTokens } from "./token-values.ts";
import { untilAborted } from "./until-aborted.ts";

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

/** The work of one run, on one worker. */
export class Sweep {
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
        `after its restart the worker's ${what} differ from before`,
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
