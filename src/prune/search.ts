/**
 * Which units to remove, one more at a time: floating search (Pudil, Novovičová and Kittler, Pattern Recognition Letters
 * 15, 1994). Greedy steps, each a race for the least harmful unit given what is gone; then put-backs, since removing more
 * can help (EvoPress, 2410.14649, Table 1), and swaps. Pure: it asks, and is told; the same answers give the same path, so
 * that a search that was ended goes on by asking the same again.
 *
 * Of each size the best set that was measured on all selection blocks is kept. A set takes another's place only if it is
 * better by more than `floor`: so no size is improved forever. Nothing here is called optimal.
 */
import { SparkablateError } from "../errors.ts";

/** Units by number, ascending. */
export type UnitSet = readonly number[];

export interface Best {
  readonly set: UnitSet;
  /** Mean over the texts of ΔNLL from the unedited model on all selection blocks, nats a token. */
  readonly value: number;
}

/** A unit's effect beside what is gone. */
export interface Effect {
  readonly unit: number;
  /** Nats a token, on the blocks that it ran. */
  readonly effect: number;
  /** Of what is gone with it, from the unedited model, where all selection blocks were run; else null. */
  readonly value: number | null;
}

/** Each of the candidates, removed beside `given`: a race for the smallest effect. */
interface StepAsked {
  readonly kind: "step";
  readonly given: UnitSet;
  readonly candidates: UnitSet;
}

/** Sets, each from the unedited model, on all selection blocks. */
interface SetsAsked {
  readonly kind: "sets";
  readonly why: "added" | "put back" | "swapped";
  readonly sets: readonly UnitSet[];
}

/** Whether one of these is better than a set that is known: a race for the smallest, which ends where none is. */
export interface ChallengeAsked {
  readonly kind: "challenge";
  readonly why: "put back" | "swapped";
  readonly sets: readonly UnitSet[];
  /** Of the same size. */
  readonly incumbent: UnitSet;
}

/** What the search wants measured. */
export type Ask = StepAsked | SetsAsked | ChallengeAsked;

/** Of a step: the race's order, its winner first, without those that failed. */
interface StepAnswer {
  readonly ranked: readonly Effect[];
}

/** Of sets: their values, null where one failed. */
interface SetsAnswer {
  readonly values: readonly (number | null)[];
}

/** Of a challenge. */
export interface ChallengeAnswer {
  /** Index of the set that won the race; null: the incumbent did. */
  readonly winner: number | null;
  /** Of each set, on the blocks that it ran; `whole`: on all. null where one failed. */
  readonly estimates: readonly ({ readonly value: number; readonly whole: boolean } | null)[];
}

export type Answer = StepAnswer | SetsAnswer | ChallengeAnswer;

export interface SearchSettings {
  /** Units that may be removed, by layer. */
  readonly units: readonly UnitSet[];
  /** Nats a token by which a set must be better to take another's place. */
  readonly floor: number;
  /** Whether one more is to be removed; told the best of each size, size 1 first. */
  readonly goesOn: (best: readonly Best[]) => boolean;
  /** How many swaps of each new set are measured. */
  readonly swaps: number;
}

type Asking<T> = Generator<Ask, T, Answer>;

/** Yields what it wants measured, is sent the answers, and returns the best set of each size, size 1 first. */
export const search = (settings: SearchSettings): Asking<Best[]> => new FloatingSearch(settings).run();

export interface EverywhereSettings extends Pick<SearchSettings, "units" | "goesOn"> {
  /** How many units each step takes out of every layer. */
  readonly takes: readonly number[];
  /** A layer offers this many times what a step takes, its first ones; absent: all that it has left. */
  readonly offers?: number | undefined;
}

/**
 * As `search`, but a step takes the least harmful units out of every layer, each beside what is gone; together they are
 * measured as one set. Nothing is put back or swapped: sizes are units of each layer.
 */
export function* searchEverywhere({ units, takes, offers, goesOn }: EverywhereSettings): Asking<Best[]> {
  const best: Best[] = [];
  for (const take of takes) {
    if (!goesOn(best)) break;
    const given = best.at(-1)?.set ?? [];
    const gone = new Set(given);
    const offered = units.map((layer) =>
      layer.filter((unit) => !gone.has(unit)).slice(0, offers === undefined ? undefined : offers * take),
    );
    const ranked = ranking(yield { kind: "step", given, candidates: offered.flat() });
    const place = new Map(ranked.map(({ unit }, index) => [unit, index]));
    const chosen = offered.map((layer) =>
      layer
        .filter((unit) => place.has(unit))
        .sort((a, b) => (place.get(a) as number) - (place.get(b) as number))
        .slice(0, take),
    );
    // A layer in which too few could be measured keeps what the others would lose.
    if (chosen.some(({ length }) => length < take)) break;
    const set = ascending([...given, ...chosen.flat()]);
    const [value] = valuesOf(yield { kind: "sets", why: "added", sets: [set] });
    if (value == null) break;
    best.push({ set, value });
  }
  return best;
}

class FloatingSearch {
  readonly #settings: SearchSettings;
  /** Of each size, size 1 first. */
  readonly #best: Best[] = [];
  /** Values of the sets that were measured, null where one failed: none is asked for twice. */
  readonly #known = new Map<string, number | null>();

  constructor(settings: SearchSettings) {
    this.#settings = settings;
  }

  *run(): Asking<Best[]> {
    const { goesOn } = this.#settings;
    const units = this.#settings.units.flat();
    const best = this.#best;
    let here: UnitSet = [];
    // One unit stays: a model without any is none.
    while (here.length < units.length - 1 && (here.length < best.length || goesOn(best))) {
      const added = yield* this.#add(here);
      if (added === null) break;
      const { found, unit, ranked } = added;
      if (!this.#keep(found)) {
        // What follows from the set that is better is known already.
        here = (best.at(-1) as Best).set;
        continue;
      }
      const { smaller, less } = yield* this.#putBack(found.set, unit);
      here = smaller ?? (yield* this.#swap(found.set, unit, less, ranked));
    }
    return best;
  }

  /** Whether the set is the best of its size, and kept. */
  #keep(found: Best): boolean {
    const before = this.#best[found.set.length - 1];
    if (before !== undefined && found.value >= before.value - this.#settings.floor) return false;
    this.#best[found.set.length - 1] = found;
    return true;
  }

  /** The race's winner beside what is gone, measured on all blocks; where that fails the next one; null: all failed. */
  *#add(given: UnitSet): Asking<{ found: Best; unit: number; ranked: readonly Effect[] } | null> {
    const candidates = this.#settings.units.flat().filter((unit) => !given.includes(unit));
    const ranked = ranking(yield { kind: "step", given, candidates });
    const withUnit = (unit: number) => ascending([...given, unit]);
    for (const { unit, value } of ranked) if (value !== null) this.#known.set(withUnit(unit).join(), value);
    for (const { unit } of ranked) {
      const set = withUnit(unit);
      const found = yield* this.#measure("added", set);
      if (found !== undefined) return { found, unit, ranked };
    }
    return null;
  }

  /** On all selection blocks; undefined: it failed. */
  *#measure(why: SetsAsked["why"], set: UnitSet): Asking<Best | undefined> {
    const key = set.join();
    if (!this.#known.has(key)) {
      const [value = null] = valuesOf(yield { kind: "sets", why, sets: [set] });
      this.#known.set(key, value);
    }
    const value = this.#known.get(key);
    return value == null ? undefined : { set, value };
  }

  /** The best of these that may be better than the incumbent, and what each is worth as far as it ran. */
  *#challenge(
    why: ChallengeAsked["why"],
    incumbent: UnitSet,
    sets: readonly UnitSet[],
  ): Asking<{ best: Best | undefined; estimates: readonly (number | null)[] }> {
    const known = (set: UnitSet) => this.#known.get(set.join());
    const unknown = sets.filter((set) => known(set) === undefined);
    const told = new Map<UnitSet, number>();
    let winner: UnitSet | undefined;
    if (unknown.length > 0) {
      const answer = challenged(yield { kind: "challenge", why, incumbent, sets: unknown });
      for (const [index, set] of unknown.entries()) {
        const estimate = answer.estimates[index];
        if (estimate == null) this.#known.set(set.join(), null);
        else if (estimate.whole) this.#known.set(set.join(), estimate.value);
        else told.set(set, estimate.value);
      }
      if (answer.winner !== null) winner = unknown[answer.winner] as UnitSet;
    }
    // Who wins a race that ended early is accepted, or not, on all blocks.
    if (winner !== undefined) yield* this.#measure(why, winner);
    const whole = sets.flatMap((set) => {
      const value = known(set);
      return value == null ? [] : [{ set, value }];
    });
    return { best: smallest(whole), estimates: sets.map((set) => known(set) ?? told.get(set) ?? null) };
  }

  /** Puts units back as long as what remains removed is the best of its size; `less`: the set's value without a unit. */
  *#putBack(set: UnitSet, newest: number): Asking<{ smaller: UnitSet | null; less: Map<number, number> }> {
    const less = new Map<number, number>();
    let smaller: UnitSet | null = null;
    // Without its newest unit it is the set that it came from.
    let others: UnitSet = without(set, newest);
    while (others.length > 0) {
      const from: UnitSet = smaller ?? set;
      const rest = others.map((unit) => without(from, unit));
      const incumbent = (this.#best[from.length - 2] as Best).set;
      const { best: least, estimates } = yield* this.#challenge("put back", incumbent, rest);
      if (smaller === null)
        for (const [index, unit] of others.entries()) {
          const estimate = estimates[index];
          if (estimate != null) less.set(unit, estimate);
        }
      if (least === undefined || !this.#keep(least)) break;
      smaller = least.set;
      others = smaller.length > 1 ? smaller : [];
    }
    return { smaller, less };
  }

  /** The most promising swaps: effects are added, as if they did. @returns the best set of that size. */
  *#swap(
    set: UnitSet,
    newest: number,
    less: ReadonlyMap<number, number>,
    ranked: readonly Effect[],
  ): Asking<UnitSet> {
    const proposed = [...less]
      .flatMap(([out, value]) =>
        ranked
          .filter(({ unit }) => unit !== newest)
          .map(({ unit, effect }) => ({
            set: ascending([...without(set, out), unit]),
            expected: value + effect,
          })),
      )
      .sort((a, b) => a.expected - b.expected || compareSets(a.set, b.set))
      .slice(0, this.#settings.swaps)
      .map((each) => each.set);
    if (proposed.length === 0) return set;
    const { best } = yield* this.#challenge("swapped", set, proposed);
    if (best !== undefined) this.#keep(best);
    return (this.#best[set.length - 1] as Best).set;
  }
}

function valuesOf(answer: Answer): readonly (number | null)[] {
  if (!("values" in answer)) throw new SparkablateError("internal", "the search was told a ranking of sets");
  return answer.values;
}

function challenged(answer: Answer): ChallengeAnswer {
  if (!("winner" in answer)) throw new SparkablateError("internal", "the search was not told who won");
  return answer;
}

function ranking(answer: Answer): readonly Effect[] {
  if (!("ranked" in answer)) throw new SparkablateError("internal", "the search was told values of a step");
  return answer.ranked;
}

const without = (set: UnitSet, unit: number): UnitSet => set.filter((each) => each !== unit);

export const ascending = (units: readonly number[]): UnitSet => [...units].sort((a, b) => a - b);

/** Of equals the first. */
const smallest = (sets: readonly Best[]): Best | undefined =>
  sets.reduce<Best | undefined>(
    (least, each) => (least === undefined || each.value < least.value ? each : least),
    undefined,
  );

/** Of sets of one size: by the first unit in which they differ. */
function compareSets(a: UnitSet, b: UnitSet): number {
  const at = a.findIndex((unit, index) => unit !== b[index]);
  return at < 0 ? 0 : (a[at] as number) - (b[at] as number);
}
