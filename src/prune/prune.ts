/**
 * A smaller model: which units to remove is searched on selection blocks, what each step costs is measured on held-out
 * blocks, and the step that they allow is baked. Every measurement is an ordinary run directory below the search's own, so
 * that a search that was ended goes on where it was: what is finished is recognised, what is not is resumed.
 */
import { join } from "node:path";
import { type ConfigInput, defineConfig, type RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { rankRows } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import { RACE_FLAGS } from "../statistics/racing.ts";
import { writeAtomically } from "../store/projections.ts";
import { readRun, requireBegun } from "../store/run-directory.ts";
import { RunStore } from "../store/sqlite.ts";
import { openSearch } from "./journal.ts";
import type { Machine } from "./machine.ts";
import { type Bench, CALIBRATION_BATCHES, foreseen, type Outcome, outcomeOf } from "./outcome.ts";
import { type Passes, passesOf } from "./passes.ts";
import { type Answer, type Ask, type Best, search, searchEverywhere, type UnitSet } from "./search.ts";
import { complete, type FullSettings, type PruneSettings, type PruneTarget } from "./settings.ts";
import { UNITS, type Unit, type UnitRow } from "./units.ts";

/** Nats a token: effects of candidates this close count as equal in a race. */
const TOLERANCE = 0.001;
/** Of each new set. */
const SWAPS = 3;
/** Units that a line of progress lists. */
const NAMED = 6;

/** How a search is run, beside what it is. */
export interface PruneOptions {
  /** Told every stage, measurement and notice as it comes. */
  readonly on?: OnEvent | undefined;
  /** Aborting saves what was measured; the same search goes on there. */
  readonly signal?: AbortSignal | undefined;
  /** Held-out blocks that no earlier target of this directory has seen. */
  readonly fresh_holdout?: boolean | undefined;
}

/** What a search found, and what was written. */
export interface Pruned extends Outcome {
  /** What was removed one of. */
  readonly unit: Unit;
  /** As they were given. */
  readonly texts: readonly string[];
  /** As it was given. */
  readonly target: PruneTarget;
  /** Races that ended without a winner at 95 % confidence: the smallest mean was taken. */
  readonly unsettled: number;
  /** What the search cost. */
  readonly passes: Passes;
}

/**
 * @throws SparkablateError other_run where the directory holds another search; usage where its held-out blocks were seen for
 *   another target; what runs and bakes throw; interrupted.
 */
export async function prune(
  machine: Machine,
  settings: PruneSettings,
  options: PruneOptions,
): Promise<Pruned> {
  return await new Pruning(machine, complete(settings), options).run();
}

class Pruning {
  readonly #machine: Machine;
  readonly #settings: FullSettings;
  readonly #row: UnitRow;
  readonly #options: PruneOptions;
  readonly #on: OnEvent;
  readonly #said = new Set<string>();
  /** Ids of the units, which are known by their place here. */
  #ids: readonly string[] = [];
  /** Parameters without a set, by its units. */
  readonly #parameters = new Map<string, number>();
  /** Layers that may become a constant, where that is asked for. */
  readonly #offered: number[] = [];
  #asked = 0;
  #unsettled = 0;
  #passes = 0;
  #onePassEach = 0;

  constructor(machine: Machine, settings: FullSettings, options: PruneOptions) {
    this.#machine = machine;
    this.#settings = settings;
    this.#row = UNITS[settings.unit];
    this.#options = options;
    this.#on = options.on ?? (() => undefined);
  }

  /** Of dozens of runs each says the same of model and texts: it is passed on once. */
  #passOn: OnEvent = (event) => {
    const said = event.type === "notice" ? event.message : event.type === "loaded" ? "loaded" : null;
    if (event.type === "recognised" || (said !== null && this.#said.has(said))) return;
    if (said !== null) this.#said.add(said);
    this.#on(event);
  };

  async run(): Promise<Pruned> {
    const { out, target, texts, unit } = this.#settings;
    await this.#requireLarger();
    await this.#requireConstants();
    const { holdout } = openSearch(this.#settings, this.#config({}), this.#options.fresh_holdout ?? false);
    const best = await this.#search();
    const outcome = await outcomeOf(this.#bench(), best, holdout);
    const passes = { search: this.#passes, one_a_candidate: this.#onePassEach };
    const result: Pruned = { unit, texts, target, ...outcome, unsettled: this.#unsettled, passes };
    writeAtomically(join(out, "path.json"), [`${JSON.stringify(result, null, 1)}\n`]);
    return result;
  }

  async #search(): Promise<Best[]> {
    const first = await this.#raced([]);
    const offered = first.slice(1).filter(({ delta_nll }) => delta_nll !== null);
    this.#ids = offered.map(({ condition }) => condition);
    const layers = Map.groupBy(offered.keys(), (unit) => layerOf(offered[unit] as Row));
    const goesOn = (best: readonly Best[]) => this.#goesOn(best);
    const settings = { units: [...layers.values()], floor: 0, goesOn, swaps: SWAPS };
    const work = this.#row.everywhere ? searchEverywhere(settings) : search(settings);
    let next = work.next();
    while (!next.done) next = work.next(await this.#answer(next.value, first));
    return next.value;
  }

  #goesOn(best: readonly Best[]): boolean {
    const { target } = this.#settings;
    if ("remove" in target) return best.length < target.remove;
    if ("target_params" in target) return this.#parametersOf(best.at(-1)?.set) > target.target_params;
    // One step beyond is measured: it is shown, and never chosen.
    return (best.at(-1)?.value ?? 0) <= target.max_delta_nll;
  }

  /** @param first rows of the first step, in which nothing is removed yet: they said which units there are. */
  async #answer(ask: Ask, first: readonly Row[]): Promise<Answer> {
    if (ask.kind === "sets") return { values: await this.#sets(ask.sets, ask.why) };
    const { many } = this.#row;
    const gone = ask.given.length === 0 ? "nothing is removed yet" : `removed: ${this.#named(ask.given)}`;
    notify(this.#on, [`${gone}; measuring ${ask.candidates.length} ${many} for the next step`]);
    this.#onePassEach += ask.candidates.length * this.#settings.blocks * this.#settings.texts.length;
    const rows = ask.given.length === 0 ? first : await this.#raced(ask.given);
    const effects = rankRows(rows).flatMap(({ condition, delta_nll, flags }) =>
      delta_nll === null ? [] : [{ unit: this.#ids.indexOf(condition), effect: delta_nll, flags }],
    );
    if (effects[0]?.flags.includes(RACE_FLAGS.leading)) this.#unsettled++;
    // A race has ranked them by places, its winner first.
    if (this.#row.everywhere) effects.sort((a, b) => a.effect - b.effect || a.unit - b.unit);
    return { ranked: effects };
  }

  /** Each unit that is left, beside what is gone. A race has one winner: where every layer loses one, all are measured. */
  async #raced(given: UnitSet): Promise<readonly Row[]> {
    const { sweep, everywhere } = this.#row;
    const ablation = {
      sweep,
      ...(this.#settings.compensate === "mean" && { mode: "mean" as const, layers: [...this.#offered] }),
      ...(given.length > 0 && { given: given.map(this.#id) }),
    };
    return await this.#measured({
      ablation,
      ...(!everywhere && { stop: { bottom: 1, tolerance: TOLERANCE } }),
    });
  }

  async #sets(sets: readonly UnitSet[], why: string): Promise<(number | null)[]> {
    notify(this.#on, [`${why}: ${sets.map((set) => this.#named(set)).join("; ")}`]);
    await this.#count(sets);
    const rows = await this.#measured({
      ablation: { sweep: "custom", targets: sets.map((set) => this.#condition(set)) },
    });
    return rows.slice(1).map(({ delta_nll }) => delta_nll);
  }

  /** Where parameters decide how far to go: those of the checkpoint without each of these sets. */
  async #count(sets: readonly UnitSet[]): Promise<void> {
    if (!("target_params" in this.#settings.target)) return;
    for (const set of sets) {
      const { size } = await foreseen(this.#bench(), set.map(this.#id));
      if (size !== null) this.#parameters.set(set.join(), size.after.parameters);
    }
  }

  /**
   * Which layers may become a constant: asked before anything is measured.
   * @throws SparkablateError bake_refused with the reason where none may.
   */
  async #requireConstants(): Promise<void> {
    if (this.#settings.compensate !== "mean") return;
    const { n_layers } = (await this.#machine.inspect(this.#config({}).model)).model_map;
    const reasons: string[] = [];
    for (let layer = 0; layer < n_layers; layer++) {
      const { refusal } = await foreseen(this.#bench(), [`L${layer}.layer.mean`]);
      if (refusal === null) this.#offered.push(layer);
      else reasons.push(refusal);
    }
    if (this.#offered.length < 2)
      throw new SparkablateError("bake_refused", ["compensate: mean has no layers to search:", ...reasons]);
    if (reasons.length > 0)
      notify(this.#on, ["left out, since their constants cannot be baked:", ...reasons]);
  }

  #parametersOf = (set: UnitSet = []): number => this.#parameters.get(set.join()) ?? Number.POSITIVE_INFINITY;

  /** @throws SparkablateError usage for a target that the model is within already. */
  async #requireLarger(): Promise<void> {
    const { target } = this.#settings;
    if (!("target_params" in target)) return;
    const { model } = this.#config({});
    const { parameters } = (await this.#machine.inspect(model)).model_map;
    if (parameters > target.target_params) return;
    throw new SparkablateError(
      "usage",
      `${model.name} has ${parameters.toLocaleString("en-US")} parameters, no more than the ${target.target_params.toLocaleString("en-US")} of target_params: nothing is to be removed`,
    );
  }

  /** Rows of the next run of the search, the baseline first. */
  async #measured(asked: Pick<ConfigInput, "ablation" | "stop">): Promise<readonly Row[]> {
    const { out } = this.#settings;
    const dir = join(out, "steps", String(++this.#asked).padStart(3, "0"));
    const rows = await this.#finished(this.#config({ ...asked, output: { dir } }));
    const { model } = RunStore.reading(dir, (store) => requireBegun(store, dir));
    this.#passes += passesOf(rows, model.model_map);
    return rows;
  }

  /** Of a run on the selection blocks. */
  #config(asked: Omit<ConfigInput, "model" | "eval">): RunConfig {
    const { model, texts, seq_len, seed, batch_size, blocks, calibration } = this.#settings;
    const [dataset, ...also] = texts as [string, ...string[]];
    return defineConfig({
      model,
      ...asked,
      eval: {
        seq_len,
        seed,
        dataset,
        ...(also.length > 0 && { also }),
        ...(calibration !== null && { calibration, calibration_batches: CALIBRATION_BATCHES }),
        batch_size: batch_size * texts.length,
        max_batches: blocks / batch_size,
      },
    });
  }

  async #finished(config: RunConfig): Promise<readonly Row[]> {
    const { signal } = this.#options;
    for await (const _row of this.#machine.run(config, { on: this.#passOn, signal }));
    return readRun(config.output.dir).rows;
  }

  #bench(): Bench {
    return {
      settings: this.#settings,
      row: this.#row,
      ids: this.#ids,
      on: this.#passOn,
      signal: this.#options.signal,
      config: (asked) => this.#config(asked),
      finished: (config) => this.#finished(config),
      machine: this.#machine,
    };
  }

  #id = (unit: number): string => this.#ids[unit] as string;

  #condition = (set: UnitSet): string => set.map(this.#id).join(" + ");

  #named(set: UnitSet): string {
    if (set.length > NAMED) return `${set.length} ${this.#row.many}`;
    return set.map(this.#id).join(" + ");
  }
}

/** Of a unit alone. */
function layerOf({ interventions: [one] }: Row): number {
  if (one === undefined || one.kind === "direction")
    throw new SparkablateError("internal", "a unit that lies in no layer");
  return one.layer;
}
