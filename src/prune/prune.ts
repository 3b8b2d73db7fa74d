/**
 * A smaller model: which units to remove is searched on selection blocks, what each step costs is measured on held-out
 * blocks, and the step that they allow is baked. Every measurement is an ordinary run directory below the search's own, so
 * that a search that was ended goes on where it was: what is finished is recognised, what is not is resumed.
 */
import { join } from "node:path";
import { canonical, conditionId, interventionId } from "../conditions/ids.ts";
import { type ConfigInput, defineConfig, type RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import type { Intervention } from "../protocol/messages.ts";
import type { RunRecord } from "../results/facts.ts";
import { rankRows } from "../results/ranking.ts";
import type { ConditionMeasurements, Row } from "../results/row.ts";
import { buildRows } from "../results/tabulate.ts";
import { RACE_FLAGS } from "../statistics/racing.ts";
import { writeAtomically } from "../store/projections.ts";
import { readRun, requireBegun } from "../store/run-directory.ts";
import { RunStore } from "../store/sqlite.ts";
import { constantLayers, requireLarger, requireOffer, sharesOf } from "./beforehand.ts";
import { openSearch } from "./journal.ts";
import type { Machine } from "./machine.ts";
import { neuronOffer } from "./neuron-blocks.ts";
import {
  type Bench,
  CALIBRATION_BATCHES,
  foreseen,
  type Ground,
  outcomeOf,
  type PruneOutcome,
} from "./outcome.ts";
import { type Repeats, requireFresh } from "./overlap.ts";
import { type Passes, passesOf } from "./passes.ts";
import {
  type Answer,
  type Ask,
  ascending,
  type Best,
  type ChallengeAnswer,
  type ChallengeAsked,
  search,
  searchEverywhere,
  type UnitSet,
} from "./search.ts";
import { complete, type FullSettings, type PruneSettings, type PruneTarget } from "./settings.ts";
import { type Offer, UNITS, type Unit, type UnitRow } from "./units.ts";

/** For the smallest effect; nats a token: those this close count as equal. */
const RACE = { stop: { bottom: 1, tolerance: 0.001 } };
/** Of each new set. */
const SWAPS = 3;
/** Passes that one up with gradients and one down are worth. */
const WITH_GRADIENTS = 3;
/** Edits that a line of progress lists, and their letters. */
const NAMED = 6;
const LETTERS = 120;

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
export interface Pruned extends PruneOutcome {
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
  /** What removes each unit; units are known by their place here. */
  #units: readonly Intervention[] = [];
  /** How many layers lose units, and how much of `remove` a unit is. */
  #layers = 1;
  #each = 1;
  /** Parameters without a set, by its units. */
  readonly #parameters = new Map<string, number>();
  /** Layers that may become a constant; null: layers are not asked to. */
  #constants: readonly number[] | null = null;
  #asked = 0;
  #unsettled = 0;
  /** The unedited model on all selection blocks, once a run has measured it there. */
  #unedited: ConditionMeasurements | null = null;
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
    await requireLarger(this.#ground);
    if (this.#mode === "mean" && unit === "layers") this.#constants = await constantLayers(this.#ground);
    else await requireOffer(this.#ground);
    const { holdout } = openSearch(this.#settings, this.#config({}), this.#options.fresh_holdout ?? false);
    const repeats = requireFresh(await sharesOf(this.#ground, holdout), target);
    notify(
      this.#on,
      repeats.flatMap(({ notice }) => notice ?? []),
    );
    const best = await this.#search();
    const outcome = await outcomeOf(this.#bench(repeats), best, holdout);
    const passes = { search: this.#passes, one_a_candidate: this.#onePassEach };
    const result: Pruned = { unit, texts, target, ...outcome, unsettled: this.#unsettled, passes };
    writeAtomically(join(out, "path.json"), [`${JSON.stringify(result, null, 1)}\n`]);
    return result;
  }

  async #search(): Promise<Best[]> {
    const first = this.#row.sweep === null ? [] : await this.#measured(this.#alone([]));
    const offer = this.#row.sweep === null ? await this.#neurons() : offerOf(first);
    this.#units = offer.units.flat();
    this.#each = offer.each;
    this.#layers = offer.units.length;
    const numbers = new Map(this.#units.map((unit, number) => [unit, number]));
    const units = offer.units.map((layer) => layer.map((unit) => numbers.get(unit) as number));
    const goesOn = (best: readonly Best[]) => this.#goesOn(best);
    const work = this.#row.everywhere
      ? searchEverywhere({ ...offer, units, goesOn })
      : search({ units, floor: 0, goesOn, swaps: SWAPS });
    let next = work.next();
    while (!next.done) next = work.next(await this.#answer(next.value, first));
    return next.value;
  }

  async #neurons(): Promise<Offer> {
    const { out, align } = this.#settings;
    const config = this.#config({ ablation: { sweep: "mlp" } });
    const { layers } = await this.#machine.map(config, this.#passOn);
    this.#passes += WITH_GRADIENTS * this.#blocks;
    return await neuronOffer(layers, { align, mode: this.#mode }, join(out, "neurons.json"), async () => {
      notify(this.#on, ["attributions of all neurons, which say what is measured together"]);
      return await this.#machine.neurons(config, this.#mode, this.#passOn, this.#options.signal);
    });
  }

  #goesOn(best: readonly Best[]): boolean {
    const { target } = this.#settings;
    if ("remove" in target) return best.length === 0 || this.#size((best.at(-1) as Best).set) < target.remove;
    if ("target_params" in target) return this.#parametersOf(best.at(-1)?.set) > target.target_params;
    // One step beyond is measured: it is shown, and never chosen.
    return (best.at(-1)?.value ?? 0) <= target.max_delta_nll;
  }

  /** Selection blocks of all texts. */
  get #blocks(): number {
    return this.#settings.blocks * this.#settings.texts.length;
  }

  get #mode(): "zero" | "mean" {
    return this.#settings.compensate === "mean" ? "mean" : "zero";
  }

  /** As a person counts: of what every layer loses, in each. */
  #size(set: UnitSet): number {
    return this.#row.everywhere ? (set.length / this.#layers) * this.#each : set.length;
  }

  /** @param first rows of the first step, in which nothing is removed yet: they said which units there are. */
  async #answer(ask: Ask, first: readonly Row[]): Promise<Answer> {
    if (ask.kind === "sets") return { values: await this.#sets(ask.sets, ask.why) };
    if (ask.kind === "challenge") return await this.#challenge(ask);
    const { given, candidates } = ask;
    const gone = given.length === 0 ? "nothing is removed yet" : `removed: ${this.#named(given)}`;
    notify(this.#on, [
      `${gone}; measuring ${candidates.length} ${this.#row.sweep === null ? "blocks of " : ""}${this.#row.many} for the next step`,
    ]);
    this.#onePassEach += candidates.length * this.#blocks;
    const rows =
      given.length === 0 && first.length > 0 ? first : await this.#measured(this.#alone(given, candidates));
    const values = this.#fromUnedited();
    const unit = new Map(candidates.map((number) => [conditionId([this.#unit(number)]), number]));
    const effects = rankRows(rows).flatMap(({ condition, delta_nll, flags }) => {
      const number = unit.get(condition);
      if (delta_nll === null || number === undefined) return [];
      return [{ unit: number, effect: delta_nll, value: values.get(condition) ?? null, flags }];
    });
    await this.#count(
      effects.flatMap(({ unit, value }) => (value === null ? [] : [ascending([...given, unit])])),
    );
    if (effects[0]?.flags.includes(RACE_FLAGS.leading)) this.#unsettled++;
    // A race has ranked them by places, its winner first.
    if (this.#row.everywhere) effects.sort((a, b) => a.effect - b.effect || a.unit - b.unit);
    return { ranked: effects };
  }

  /** Each unit that is left, beside what is gone. A race has one winner: where every layer loses some, all are measured. */
  #alone(given: UnitSet, candidates: UnitSet = []): Pick<ConfigInput, "ablation" | "stop"> {
    const { sweep, everywhere } = this.#row;
    const ablation =
      sweep === null
        ? { sweep: "custom" as const, targets: candidates.map((unit) => interventionId(this.#unit(unit))) }
        : {
            sweep,
            ...(this.#mode === "mean" && { mode: this.#mode }),
            ...(this.#constants !== null && { layers: [...this.#constants] }),
          };
    return {
      ablation: { ...ablation, ...(given.length > 0 && { given: this.#ids(given) }) },
      ...(!everywhere && RACE),
    };
  }

  async #sets(sets: readonly UnitSet[], why: string): Promise<(number | null)[]> {
    notify(this.#on, [`${why}: ${sets.map((set) => this.#named(set)).join("; ")}`]);
    await this.#count(sets);
    const rows = await this.#measured({
      ablation: { sweep: "custom", targets: sets.map((set) => this.#ids(set).join(" + ")) },
    });
    this.#fromUnedited();
    return rows.slice(1).map(({ delta_nll }) => delta_nll);
  }

  /** The incumbent and who may be better, racing for the smallest value. */
  async #challenge({ incumbent, sets, why }: ChallengeAsked): Promise<ChallengeAnswer> {
    notify(this.#on, [`${why}? ${sets.map((set) => this.#named(set)).join("; ")}`]);
    await this.#count(sets);
    const targets = [incumbent, ...sets].map((set) => this.#ids(set).join(" + "));
    const rows = await this.#measured({ ablation: { sweep: "custom", targets }, ...RACE });
    const entrants = rows.slice(1);
    const all = this.#blocks;
    const estimates = entrants
      .slice(1)
      .map(({ delta_nll, blocks }) =>
        delta_nll === null ? null : { value: delta_nll, whole: blocks === all },
      );
    const first = rankRows(rows)[0];
    const winner =
      first === undefined ? 0 : entrants.findIndex(({ condition }) => condition === first.condition);
    return { winner: winner <= 0 ? null : winner - 1, estimates };
  }

  /**
   * Of the last run's conditions that ran on all blocks: Δ NLL from the unedited model, whatever they were measured on top
   * of. A condition's sums on top of others are those of all of them together, bit for bit.
   */
  #fromUnedited(): Map<string, number> {
    const all = this.#blocks;
    return RunStore.reading(this.#lastRun(), (store) => {
      const [baseline, ...conditions] = [...store.measurements("edits")];
      const { facts } = store.run() as RunRecord;
      if (facts.given === undefined && baseline?.blocks.length === all) this.#unedited = baseline;
      if (this.#unedited === null) return new Map();
      const whole = conditions.filter(({ blocks }) => blocks.length === all);
      const rows = buildRows(this.#unedited, whole, { correction: "bh", floor: null });
      return new Map(
        rows
          .slice(1)
          .flatMap(({ condition, delta_nll }) => (delta_nll === null ? [] : [[condition, delta_nll]])),
      );
    });
  }

  /** Where parameters decide how far to go: those of the checkpoint without each of these sets. */
  async #count(sets: readonly UnitSet[]): Promise<void> {
    if (!("target_params" in this.#settings.target)) return;
    for (const set of sets) {
      const { size } = await foreseen(this.#ground, this.#ids(set));
      if (size !== null) this.#parameters.set(set.join(), size.after.parameters);
    }
  }

  #parametersOf = (set: UnitSet = []): number => this.#parameters.get(set.join()) ?? Number.POSITIVE_INFINITY;

  /** Rows of the next run of the search, the baseline first. */
  async #measured(asked: Pick<ConfigInput, "ablation" | "stop">): Promise<readonly Row[]> {
    this.#asked++;
    const dir = this.#lastRun();
    const rows = await this.#finished(this.#config({ ...asked, output: { dir } }));
    const { model } = RunStore.reading(dir, (store) => requireBegun(store, dir));
    this.#passes += passesOf(rows, model.model_map);
    return rows;
  }

  #lastRun(): string {
    return join(this.#settings.out, "steps", String(this.#asked).padStart(3, "0"));
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

  get #ground(): Ground {
    return {
      settings: this.#settings,
      row: this.#row,
      on: this.#passOn,
      config: (asked) => this.#config(asked),
      machine: this.#machine,
    };
  }

  #bench(repeats: readonly Repeats[]): Bench {
    return {
      ...this.#ground,
      ids: this.#ids,
      size: (set) => this.#size(set),
      repeats,
      signal: this.#options.signal,
      finished: (config) => this.#finished(config),
    };
  }

  #unit = (unit: number): Intervention => this.#units[unit] as Intervention;

  /** What removes a set: of each layer one edit. */
  #ids = (set: UnitSet): string[] => canonical(set.map(this.#unit)).map(interventionId);

  #named(set: UnitSet): string {
    const ids = this.#ids(set);
    const letters = ids.reduce((sum, { length }) => sum + length, 0);
    if (ids.length <= NAMED && letters <= LETTERS) return ids.join(" + ");
    return this.#row.everywhere ? `${this.#size(set)} of every layer` : `${set.length} ${this.#row.many}`;
  }
}

/** What a sweep's rows show: each unit that could be measured; of every layer one stays. */
function offerOf(rows: readonly Row[]): Offer {
  const measured = rows.slice(1).filter(({ delta_nll }) => delta_nll !== null);
  const layers = Map.groupBy(measured.map(alone), layerOf);
  const units = [...layers.values()];
  const fewest = Math.min(...units.map(({ length }) => length));
  return { units, takes: Array(Math.max(0, fewest - 1)).fill(1), each: 1 };
}

function alone({ condition, interventions: [one] }: Row): Intervention {
  if (one === undefined) throw new SparkablateError("internal", `${condition} removes nothing`);
  return one;
}

function layerOf(unit: Intervention): number {
  if (unit.kind === "direction") throw new SparkablateError("internal", "a direction is no unit");
  return unit.layer;
}
