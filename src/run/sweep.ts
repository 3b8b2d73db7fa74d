/** What a run does with its worker: prepare, measure, values a token; a worker that dies is brought back. */

import { conditionId, interventionId } from "../conditions/ids.ts";
import { configProblem, identityConfig, type RunConfig, withDtype } from "../config/load.ts";
import { refuse } from "../config/problems.ts";
import { type Direction, sendDirections } from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { loadModel, sendMeans } from "../link/calls.ts";
import { retryingOnce, type Worker } from "../link/worker.ts";
import { nullConditions, planConditions } from "../plan/conditions.ts";
import { donorModes, edited, type Means, meanSites, type Needs, type Plan } from "../plan/needs.ts";
import { batches } from "../plan/slices.ts";
import type { Condition, LoadedModel } from "../protocol/messages.ts";
import { divisor, type RunRecord } from "../results/facts.ts";
import { Measurements } from "../results/measurements.ts";
import type { Row } from "../results/row.ts";
import type { ChosenBlocks } from "../samples/blocks.ts";
import type { ChosenItems } from "../samples/items.ts";
import { identityOf, requireSameRun } from "../store/fingerprint.ts";
import { filePartsOf } from "../store/model-files.ts";
import type { RunDirectory } from "../store/run-directory.ts";
import { evaluation, type Measurable, measureMissing } from "./evaluate.ts";
import { forecast } from "./forecast.ts";
import type { Inputs } from "./inputs.ts";
import { type Asked, calibrated, prepare } from "./prepare.ts";
import { answersOf, blockRecords, type Described, runRecord } from "./records.ts";
import { rowStream } from "./row-stream.ts";
import { chooseTexts } from "./texts.ts";
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

/** A run that is written down, and its means. */
export interface Begun {
  readonly run: RunRecord;
  readonly means: Means | null;
}

/** The work of one run, on one worker. */
export class Sweep {
  /** Once the model is loaded, with the dtype that `auto` became. */
  #config: RunConfig;
  readonly #inputs: Inputs;
  readonly #worker: Worker;
  readonly #on: OnEvent;
  readonly #signal: AbortSignal | undefined;
  #described: Described | undefined;

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
  async prepare(runId: string, stored: RunRecord | undefined, directory: RunDirectory): Promise<Begun> {
    return await retryingOnce(
      async () => {
        const described = await this.#describe(stored === undefined ? null : editedIn(directory.store));
        this.#described = described;
        notify(this.#on, described.notices);
        return stored === undefined
          ? await this.#begin(runId, described, directory)
          : await this.#resume(stored, described, directory);
      },
      () => this.#signal?.aborted ?? false,
      async (error) => {
        this.#on({ type: "restart", error });
        await this.#worker.reconnect();
      },
    );
  }

  async #begin(runId: string, described: Described, directory: RunDirectory): Promise<Begun> {
    const { plan, texts } = described;
    const means = await calibrated(this.#worker.client, described, this.#config.eval, this.#on);
    await this.#requireGiven(means);
    const run = runRecord(runId, this.#config, this.#inputs, described);
    directory.store.begin(run, blockRecords(texts), plan.conditions, means);
    this.#keepSeen(directory);
    directory.project();
    return { run, means };
  }

  /** Everything is measured on top of the given edits: where they alone fail, nothing can be. */
  async #requireGiven(means: Means | null): Promise<void> {
    const { plan, shape, texts } = this.#ready;
    if (plan.given === undefined) return;
    const [first = []] = batches(texts.evaluation.length, shape.batch_size);
    const { fields, payload } = evaluation(this.#measurable(means), first, [0], this.#inputs.metrics);
    const { client } = this.#worker;
    await client.call("evaluate", fields, {
      payload,
      onEvent: (event) => {
        if (event.type !== "measurement" || event.error === null) return;
        const { code, message } = event.error;
        const words = `${conditionId(plan.given ?? [])} fails alone, so nothing can be measured on top of it: ${message}`;
        refuse([configProblem(this.#config, code, ["ablation", "given"], words)]);
      },
    });
  }

  async #resume(run: RunRecord, { identity, loaded }: Described, directory: RunDirectory): Promise<Begun> {
    const before = directory.store.seen()?.model;
    requireSameRun(
      directory.path,
      { ...run.identity, ...filePartsOf(before) },
      { ...identity, ...(before && filePartsOf(loaded.model_files)) },
    );
    this.#keepSeen(directory);
    const means = directory.store.means();
    if (means !== null) await sendMeans(this.#worker.client, means);
    return { run, means };
  }

  /** What a later command recognises the run by. */
  #keepSeen({ store }: RunDirectory): void {
    const { model_files } = this.#ready.loaded;
    store.keepSeen({ model: model_files, inputs: this.#inputs.digests });
  }

  get #ready(): Described {
    if (this.#described === undefined) throw new SparkablateError("internal", "the run is not prepared");
    return this.#described;
  }

  async *measure(
    { run, means }: Begun,
    directory: RunDirectory,
    retryFailed: boolean,
  ): AsyncGenerator<Row, void> {
    const { statistics } = run.facts;
    const { metrics } = this.#inputs;
    const measurements = this.#measured(run, directory, retryFailed);
    const ahead = forecast(this.#ready, measurements, metrics, this.#worker.greeting.slots);
    const may_stop = this.#config.stop !== null;
    this.#on({ type: "plan", plan: { directory: directory.path, ...ahead, may_stop } });
    const { rows, rowOf, add } = rowStream(
      this.#ready.plan.conditions,
      measurements,
      statistics,
      this.#ready.plan.given,
    );
    let { stored: done, total } = ahead;
    const began = performance.now();
    const stop = new AbortController();
    const signal = this.#signal === undefined ? stop.signal : AbortSignal.any([this.#signal, stop.signal]);
    const work = measureMissing(
      {
        ...this.#measurable(means),
        metrics,
        race: statistics.race ?? null,
        worker: this.#worker,
        store: directory.store,
        measurements,
        signal,
      },
      {
        onMeasured: (condition) => {
          const row = rowOf(condition);
          done++;
          const each = (performance.now() - began) / 1000 / (done - ahead.stored);
          this.#on({ type: "measured", row, done, total, seconds_left: each * (total - done) });
          add(condition, row);
        },
        onSpared: (pairs) => {
          total -= pairs;
        },
        onBatch: () => directory.projectNowAndThen(),
        onNotice: (message) => notify(this.#on, [message]),
        recover: (error) => untilAborted(this.#recover(error, means), signal),
      },
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

  /** What the store holds. */
  #measured(run: RunRecord, { store }: RunDirectory, retryFailed: boolean): Measurements {
    const { plan, texts } = this.#ready;
    const measurements = new Measurements(
      plan.conditions,
      texts.evaluation.length,
      divisor(run.facts),
      answersOf(texts)?.map(({ begin, end }) => end - begin),
    );
    store.forEachSum((condition, block, metric, sum) => measurements.add(condition, block, metric, sum));
    if (!retryFailed) for (const [condition, error] of store.failures()) measurements.fail(condition, error);
    return measurements;
  }

  async keepTokens(condition: string, means: Means | null, { store }: RunDirectory): Promise<void> {
    const { conditions } = this.#ready.plan;
    await measureTokens(
      { ...this.#measurable(means), condition: conditions.findIndex(({ id }) => id === condition) },
      this.#worker,
      store,
      {
        on: this.#on,
        recover: (error) => untilAborted(this.#recover(error, means), this.#signal),
      },
      this.#signal,
    );
  }

  #measurable(means: Means | null): Measurable {
    const { plan, texts, shape } = this.#ready;
    return {
      ...(plan.given !== undefined && { given: plan.given }),
      conditions: plan.conditions,
      blocks: texts.evaluation.map(({ ids }) => ids),
      answers: answersOf(texts),
      donors: texts.donors,
      shape,
      meansSha256: means?.sha256 ?? null,
    };
  }

  /** Loads, plans, tokenises and chooses blocks: what the run is. */
  async #describe(stored: ReadonlySet<string> | null): Promise<Described> {
    const config = this.#config;
    const { client } = this.#worker;
    const { task } = this.#inputs;
    const asked: Asked<ChosenBlocks | ChosenItems> = {
      config,
      directions: this.#inputs.directions,
      findsLength: task !== null,
      plan: (loaded, directions) => planOf(config, this.#inputs, stored, loaded, directions),
      choose: (loaded, conditions) =>
        chooseTexts(client, config, this.#inputs, loaded, needsOf(conditions), this.#on),
    };
    const prepared = await prepare(client, asked, this.#on);
    const { loaded, plan, texts, directions } = prepared;
    this.#config = withDtype(config, loaded.numerics.dtype);
    const identity = identityOf({
      config: identityConfig(this.#config),
      loaded,
      task: task?.sha256 ?? null,
      evaluation: texts.evaluation.map(({ sha256 }) => sha256),
      calibration: texts.calibration.map(({ sha256 }) => sha256),
      donors: donorModes(edited(plan)).map((mode) => [
        mode,
        (texts.donors[mode] ?? []).map(({ sha256 }) => sha256),
      ]),
      given: (plan.given ?? []).map(interventionId),
      conditions: plan.conditions.map(({ id }) => id),
      directions: [...directions.values()].map(({ sha256, norm }) => `${sha256} ${norm}`),
    });
    return { ...prepared, identity, notices: [...loaded.notices, ...plan.notices, ...texts.notices] };
  }

  /** After the worker was lost: the same model again, or none. */
  async #recover(error: SparkablateError, means: Means | null): Promise<void> {
    const { loaded, shape, directions } = this.#ready;
    this.#on({ type: "restart", error });
    await this.#worker.reconnect();
    const { client } = this.#worker;
    requireSameModel(loaded, await loadModel(client, this.#config.model, shape, this.#on), error);
    if (means !== null) await sendMeans(client, means);
    await sendDirections(directions.values(), client);
  }
}

/** The run's conditions on this model, and those that measure rounding. */
function planOf(
  config: RunConfig,
  { earlier }: Inputs,
  stored: ReadonlySet<string> | null,
  { model_map, weights_sha256, numerics }: LoadedModel,
  directions: ReadonlyMap<string, Direction>,
): Plan {
  const plan = planConditions(config, model_map, directions, earlier, stored);
  const { dtype } = withDtype(config, numerics.dtype).model;
  const { conditions, notices } = plan;
  if (earlier !== null && earlier.weights_sha256 !== weights_sha256) {
    notices.push(
      `${config.ablation.from} was measured on other weights: its largest effects need not be this model's`,
    );
  }
  return { ...plan, conditions: [...conditions, ...nullConditions(dtype, model_map)] };
}

const needsOf = (conditions: readonly Condition[]): Needs => ({
  means: meanSites(conditions).length > 0,
  donors: donorModes(conditions),
});

/** @throws SparkablateError baseline_changed where a worker that was brought back has another model. */
function requireSameModel(before: LoadedModel, now: LoadedModel, cause: SparkablateError): void {
  const parts = ({ weights_sha256, tokenizer_sha256, numerics, model_files }: LoadedModel) =>
    Object.entries({ weights_sha256, tokenizer_sha256, numerics, ...filePartsOf(model_files) }).map(
      ([part, value]) => [part, JSON.stringify(value)] as const,
    );
  const known = new Map(parts(before));
  const changed = parts(now).find(([part, value]) => known.get(part) !== value);
  if (changed === undefined && parts(now).length === known.size) return;
  const message = `after its restart the worker's ${changed?.[0] ?? "files"} differ from before`;
  throw new SparkablateError("baseline_changed", message, { cause });
}
