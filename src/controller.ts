/** The public API: a worker, started here or reached elsewhere, and what one can ask of it. */

import type { RunConfig } from "./config/load.ts";
import { type DirectionOptions, type FoundDirection, findDirection } from "./directions/find.ts";
import { SparkablateError } from "./errors.ts";
import type { OnEvent } from "./events.ts";
import { loadModel } from "./link/calls.ts";
import { anonymousRunId, type Client } from "./link/client.ts";
import { isHere, type Place, retryingOnce, Worker } from "./link/worker.ts";
import type { LoadedModel, ModelConfig, Result } from "./protocol/messages.ts";
import type { Machine } from "./prune/machine.ts";
import { type Pruned, type PruneOptions, prune } from "./prune/prune.ts";
import type { PruneSettings } from "./prune/settings.ts";
import type { Row } from "./results/row.ts";
import { type Baked, type BakeOptions, bakeCondition, foreseeBake } from "./run/bake.ts";
import { type CompareOptions, type Comparison, comparePrompts } from "./run/compare.ts";
import { evaluationBlocks } from "./run/evaluation-blocks.ts";
import { Run } from "./run/handle.ts";
import { neuronAttributions } from "./run/neuron-attributions.ts";
import { shapeToLoad } from "./run/prepare.ts";
import { keepTokens, type RunOptions, runSweep } from "./run/run.ts";

/** How a `Controller` gets its worker. */
export interface ControllerOptions {
  /**
   * `ipc://…` or `tcp://…` of a running worker, or `docker`: the compose service, started if it does not listen;
   * `spawn`: one is started here when it is first needed. null or absent: what `sparkablate worker` runs at its default
   * address is used where one started here would be the same in every respect, else one is started.
   */
  readonly worker?: string | null | undefined;
  /** Whether to wait for a worker that another controller holds, instead of starting one or being refused. */
  readonly wait?: boolean | undefined;
  /** Directory of the keys for a `tcp://…` worker; default $SPARKABLATE_KEYS, else sparkablate/keys in $XDG_CONFIG_HOME. */
  readonly keys?: string | undefined;
  /** Told, a line at a time, what a container engine says while it builds and starts the worker. */
  readonly say?: ((line: string) => void) | undefined;
}

/**
 * Drives one worker. Close it when done: then no process of ours is left.
 *
 * ```ts
 * await using controller = new Controller();
 * for await (const row of controller.run(loadConfig("sweep.yaml"))) console.log(row.condition, row.delta_nll);
 * ```
 */
export class Controller {
  readonly #place: Place;
  #held: Held | undefined;
  #runId = "";
  #busy = false;

  /** Starts nothing yet. @param options how it gets its worker. */
  constructor({ worker = null, wait, keys, say }: ControllerOptions = {}) {
    this.#place = { address: worker, wait, keys, say };
  }

  /** The pid of the worker that was started here, null before that or for a worker elsewhere. */
  get workerPid(): number | null {
    return this.#held?.worker?.pid ?? null;
  }

  /**
   * Loads the config's model, with its self-test; what comes next with the same model does not load it again.
   *
   * @param options `on`: progress.
   * @throws SparkablateError model_not_found, architecture_unsupported, load_failed.
   *
   * @example
   * ```ts
   * const { model_map, self_test } = await controller.load(config);
   * console.log(model_map.n_layers, self_test.every(({ passed }) => passed));
   * ```
   */
  async load(config: RunConfig, { on = () => undefined }: { on?: OnEvent } = {}): Promise<LoadedModel> {
    const worker = await this.#attach(this.#runId || anonymousRunId(), config.model);
    return await loadModel(worker.client, config.model, shapeToLoad(config), on);
  }

  /**
   * Runs a sweep, or resumes the one in its directory. What is given has the rows as they come (`updates()`, or the run
   * itself in a `for await`), its end (`done`) and its final rows (`rows()`). An update is a condition's row, each time one
   * more batch of it and of the baseline is stored. Breaking off saves what was measured.
   *
   * @throws SparkablateError usage where this controller runs a sweep already; other_run, run_locked,
   *   text_too_short, site_unsupported, … before anything is measured; interrupted.
   *
   * @example
   * ```ts
   * const run = controller.run(config);
   * for await (const row of run.updates()) console.log(row.condition, row.delta_nll, row.ci95);
   * for (const row of await run.rows()) console.log(row.condition, row.q, row.distinguishable);
   * ```
   */
  run(config: RunConfig, options: RunOptions = {}): Run {
    return new Run(config.output.dir, this.#run(config, options));
  }

  async *#run(config: RunConfig, options: RunOptions): AsyncGenerator<Row, void> {
    if (this.#busy) throw new SparkablateError("usage", "this controller is running a sweep already");
    this.#busy = true;
    try {
      const { address } = this.#place;
      const remote = !isHere(address) && !address.startsWith("ipc://");
      yield* runSweep(config, (runId) => this.#attach(runId, config.model), remote, options);
    } finally {
      this.#busy = false;
    }
  }

  /**
   * Measures one condition of the run in `config.output.dir` and the baseline again, on the run's own blocks, and keeps
   * the NLL of every predicted token there, for `sparkablate report --tokens`. What is kept already is not measured.
   *
   * @throws SparkablateError usage where this controller runs a sweep; other_run; measurement_conflict where the
   *   run's own numbers do not come again, bit for bit; interrupted.
   *
   * @example
   * ```ts
   * await controller.keepTokens(config, "L0.layer.skip");
   * ```
   */
  async keepTokens(
    config: RunConfig,
    condition: string,
    options: Pick<RunOptions, "on" | "signal"> = {},
  ): Promise<void> {
    if (this.#busy) throw new SparkablateError("usage", "this controller is running a sweep already");
    this.#busy = true;
    try {
      await keepTokens(config, condition, (runId) => this.#attach(runId, config.model), options);
    } finally {
      this.#busy = false;
    }
  }

  /**
   * The model's map and self-test; `meta`: from its configuration alone, without weights.
   *
   * @param options `meta`: default false.
   * @throws SparkablateError model_not_found, architecture_unsupported, load_failed.
   *
   * @example
   * ```ts
   * const { model_map } = await controller.inspect(config.model, { meta: true });
   * for (const [layer, { n_heads, sites }] of model_map.layers.entries()) console.log(layer, n_heads, sites);
   * ```
   */
  async inspect(model: ModelConfig, { meta = false }: { meta?: boolean } = {}): Promise<Result<"inspect">> {
    return await this.#retryingOnce(
      model,
      async (client) => (await client.call("inspect", { model, meta })).result,
    );
  }

  /**
   * Continues prompts greedily with and without the config's ablations. Means are taken over `eval.calibration`.
   *
   * @throws SparkablateError config_invalid for prompts that do not fit, and what loading throws.
   *
   * @example
   * ```ts
   * const text = "model: {name: builtin:smollm2-135m, dtype: float32}\nablation: {sweep: custom, targets: [{kind: mlp, layer: 5}]}";
   * const edited = parseConfig(text, "mlp-5.yaml");
   * const { prompts } = await controller.compare(edited, { prompts: ["The capital of France is"] });
   * for (const { texts } of prompts) for (const { condition, text } of texts) console.log(condition, text);
   * ```
   */
  async compare(config: RunConfig, options: CompareOptions): Promise<Comparison> {
    return await this.#retryingOnce(
      config.model,
      (client) => comparePrompts(client, config, options),
      options.on,
    );
  }

  /**
   * Writes the config's one condition into a checkpoint, which appears certified or not at all.
   *
   * @throws SparkablateError bake_refused where no weights do the same; usage for a target that exists and for
   *   several entries without `joint`; disk_full; certificate_failed.
   *
   * @example
   * ```ts
   * const { certificate } = await controller.bake(config, { out: resolve("baked/no-mlp-5") });
   * console.log(certificate);
   * ```
   */
  async bake(config: RunConfig, options: BakeOptions): Promise<Baked> {
    const { signal } = options;
    // A worker that is not ready has written nothing that it would have to clear away.
    const leave = (): void => {
      if (this.#held?.worker === undefined) this.#held?.stop.abort();
    };
    signal?.addEventListener("abort", leave, { once: true });
    const worker = await this.#attach(this.#runId || anonymousRunId(), config.model).finally(() =>
      signal?.removeEventListener("abort", leave),
    );
    return await bakeCondition(worker.client, config, options);
  }

  /**
   * Searches for the units of a model that cost least, measures on held-out blocks what each step costs, and bakes the step
   * that the target allows. The same call goes on with a search that was ended.
   *
   * @throws SparkablateError usage, other_run for a directory of another search; what `run` and `bake` throw.
   *
   * @example
   * ```ts
   * const { steps, chosen } = await controller.prune({
   *   model: { name: "builtin:smollm2-135m" },
   *   texts: ["novel.txt", "code.txt"],
   *   target: { max_delta_nll: 0.05 },
   *   out: resolve("pruned"),
   * });
   * console.log(chosen, steps.map(({ removed, held_out }) => [removed, held_out]));
   * ```
   */
  async prune(settings: PruneSettings, options: PruneOptions = {}): Promise<Pruned> {
    const machine: Machine = {
      run: (config, more) => this.run(config, more),
      bake: (config, more) => this.bake(config, more),
      blocks: (config, on) =>
        this.#retryingOnce(config.model, (client) => evaluationBlocks(client, config, on), on),
      map: async (config, on) => (await this.load(config, { on })).model_map,
      neurons: (config, mode, on, signal) =>
        this.#retryingOnce(
          config.model,
          (client) => neuronAttributions(client, config, mode, on, signal),
          on,
        ),
      inspect: (model) => this.inspect(model, { meta: true }),
      foresee: (config, more) =>
        this.#retryingOnce(config.model, (client) => foreseeBake(client, config, more)),
    };
    return await prune(machine, settings, options);
  }

  /**
   * Looks for a direction that tells two sets of prompts apart.
   *
   * @throws SparkablateError config_invalid: too few prompts, one of them twice, one that does not fit.
   *
   * @example
   * ```ts
   * const [positive, negative] = [readPrompts("french.txt"), readPrompts("english.txt")];
   * const { file, table } = await controller.direction(config.model, { positive, negative });
   * if (file !== null) writeFileSync("french.safetensors", file);
   * console.log(table.chosen);
   * ```
   */
  async direction(model: ModelConfig, options: DirectionOptions): Promise<FoundDirection> {
    return await this.#retryingOnce(model, (client) => findDirection(client, model, options), options.on);
  }

  /** Ends the worker at once, also one that is starting; whatever waits for it fails. For a person who will not wait. */
  async kill(): Promise<void> {
    const held = this.#held;
    held?.stop.abort();
    await held?.worker?.kill();
  }

  /** Ends the worker that was started here, or lets go of the one that was reached. Safe to call twice. */
  async close(): Promise<void> {
    const held = this.#held;
    if (held === undefined) return;
    // What is being started is of no use any more; what has started is let go of in the proper way.
    held.stop.abort();
    await held.attached.then(
      (worker) => worker.close(),
      () => undefined, // whoever asked for it was told
    );
    if (this.#held === held) this.#held = undefined;
  }

  /** `close()`, at the end of an `await using` scope. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #retryingOnce<T>(model: ModelConfig, work: (client: Client) => Promise<T>, on?: OnEvent): Promise<T> {
    const worker = await this.#attach(this.#runId || anonymousRunId(), model);
    return await retryingOnce(
      () => work(worker.client),
      () => this.#held?.stop.signal.aborted ?? true,
      async (error) => {
        on?.({ type: "restart", error });
        await worker.reconnect();
      },
    );
  }

  async #attach(runId: string, model: ModelConfig): Promise<Worker> {
    if (this.#held === undefined) return await this.#start(runId, model);
    const worker = await this.#held.attached;
    if (runId !== this.#runId) await worker.hold(runId);
    this.#runId = runId;
    return worker;
  }

  async #start(runId: string, { threads }: ModelConfig): Promise<Worker> {
    const stop = new AbortController();
    const held: Held = { stop, attached: Worker.attach(this.#place, runId, stop.signal, threads) };
    this.#held = held;
    this.#runId = runId;
    try {
      held.worker = await held.attached;
      return held.worker;
    } catch (error) {
      if (this.#held === held) this.#held = undefined;
      throw error;
    }
  }
}

/** The worker in use, or being started. */
interface Held {
  /** Ends every wait for a worker that starts, now or again. */
  readonly stop: AbortController;
  readonly attached: Promise<Worker>;
  worker?: Worker;
}
