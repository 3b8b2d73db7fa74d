/** What a search removes, and what of it a stock checkpoint can do without. */
import type { BakeOptions } from "../run/bake.ts";

/** What a search removes one of. */
export type Unit = "layers" | "kv_groups";

export interface UnitRow {
  /** Several, for a person. */
  readonly many: string;
  /** The sweep that measures each of them alone. */
  readonly sweep: Unit;
  /** Whether a step takes one out of every layer, since a stock configuration has one number for all of them. */
  readonly everywhere: boolean;
  /** Whether a constant may stand in the place of one. */
  readonly constants?: true;
  /** How a bake leaves them out instead of keeping them as zeros. */
  readonly bake: Pick<BakeOptions, "prune_layers" | "prune_kv_groups">;
}

export const UNITS: Readonly<Record<Unit, UnitRow>> = {
  layers: {
    many: "layers",
    sweep: "layers",
    everywhere: false,
    constants: true,
    bake: { prune_layers: true },
  },
  kv_groups: {
    many: "key/value groups",
    sweep: "kv_groups",
    everywhere: true,
    bake: { prune_kv_groups: true },
  },
};
