/** What a search removes, and what of it a stock checkpoint can do without. */
import type { Intervention } from "../protocol/messages.ts";
import type { BakeOptions } from "../run/bake.ts";

/** What a search removes one of. */
export type Unit = "layers" | "kv_groups" | "neurons";

export interface UnitRow {
  /** Several, for a person. */
  readonly many: string;
  /** The sweep that measures each of them alone; null: they are too many, and blocks of them are measured. */
  readonly sweep: "layers" | "kv_groups" | null;
  /** Whether a step takes one out of every layer, since a stock configuration has one number for all of them. */
  readonly everywhere: boolean;
  /** How a bake leaves them out instead of keeping them as zeros. */
  readonly bake: Pick<BakeOptions, "prune_layers" | "prune_kv_groups" | "prune_neurons">;
}

/** What of a model a search may remove. */
export interface Offer {
  /** Of each layer its units, as the edits that remove them. */
  readonly units: readonly (readonly Intervention[])[];
  /** Of what every layer loses: how many each step takes. */
  readonly takes: readonly number[];
  /** A layer offers this many times what a step takes, its first ones; absent: all that it has left. */
  readonly offers?: number;
  /** What a unit counts for, e.g. the neurons of a block. */
  readonly each: number;
}

export const UNITS: Readonly<Record<Unit, UnitRow>> = {
  layers: { many: "layers", sweep: "layers", everywhere: false, bake: { prune_layers: true } },
  kv_groups: {
    many: "key/value groups",
    sweep: "kv_groups",
    everywhere: true,
    bake: { prune_kv_groups: true },
  },
  neurons: { many: "blocks of neurons", sweep: null, everywhere: true, bake: { prune_neurons: true } },
};
