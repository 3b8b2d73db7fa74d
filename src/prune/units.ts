/** What a search removes, and what of it a stock checkpoint can do without. */
import { SparkablateError } from "../errors.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";
import type { BakeOptions } from "../run/bake.ts";

/** What a search removes one of. */
export type Unit = "layers" | "kv_groups" | "neurons";

export interface UnitRow {
  /** Several, for a person. */
  readonly many: string;
  /** How a search goes, in a sentence for the page. */
  readonly how: string;
  /** The sweep that measures each of them alone; null: they are too many, and blocks of them are measured. */
  readonly sweep: "layers" | "kv_groups" | null;
  /** Whether a step takes one out of every layer, since a stock configuration has one number for all of them. */
  readonly everywhere: boolean;
  /** How a bake leaves them out instead of keeping them as zeros. */
  readonly bake: Pick<BakeOptions, "prune_layers" | "prune_kv_groups" | "prune_neurons">;
  /**
   * A set of each size that a stock configuration could refuse for its number, the smallest first: what a bake can say of
   * none of them, it can say of nothing. Throws where there is none.
   */
  readonly examples: (layers: ModelMap["layers"], mode: "zero" | "mean") => Intervention[][];
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
  layers: {
    many: "layers",
    how: "A step is a race of all that are left beside what is gone, for the smallest mean Δ NLL; then each that was removed before is put back, and the most promising swaps are measured (floating search: Pudil, Novovičová and Kittler, 1994).",
    sweep: "layers",
    everywhere: false,
    bake: { prune_layers: true },
    examples(layers) {
      if (layers.length > 1) return [[{ kind: "layer", layer: layers.length - 1, mode: "skip" }]];
      throw new SparkablateError("site_unsupported", "the model has one layer: none can go");
    },
  },
  kv_groups: {
    many: "key/value groups",
    how: "A step takes the least harmful one out of every layer, each beside what is gone; together they are measured as one set.",
    sweep: "kv_groups",
    everywhere: true,
    bake: { prune_kv_groups: true },
    examples(layers, mode) {
      const few = layers.findIndex(({ n_kv_heads }) => n_kv_heads < 2);
      const removing = (count: number): Intervention[] =>
        layers.map((_, layer) => ({
          kind: "kv_group",
          layer,
          groups: [...Array(count).keys()],
          mode,
          positions: "all",
        }));
      const most = Math.min(...layers.map(({ n_kv_heads }) => n_kv_heads)) - 1;
      if (few < 0) return Array.from({ length: most }, (_, index) => removing(index + 1));
      const has =
        (layers[few] as (typeof layers)[0]).n_kv_heads === 0 ? "no key/value groups" : "one key/value group";
      throw new SparkablateError(
        "site_unsupported",
        `layer ${few} has ${has}: none can go out of every layer`,
        { help: "Remove layers or neurons instead, with --unit." },
      );
    },
  },
  neurons: {
    many: "neurons",
    how: "Neurons were measured in blocks whose first-order effects on the selection blocks rank next to each other. A step offers, of every layer, twice as many blocks as go, those of the smallest first-order effects, and takes the least harmful, each beside what is gone; together they are measured as one set.",
    sweep: null,
    everywhere: true,
    bake: { prune_neurons: true },
    examples(layers, mode) {
      requireOneWidth(layers);
      return [layers.map((_, layer) => ({ kind: "neuron", layer, neurons: [0], mode, positions: "all" }))];
    },
  },
};

/**
 * Neurons of every layer.
 * @throws SparkablateError site_unsupported where a layer has none, or another number than the rest.
 */
export function requireOneWidth(layers: ModelMap["layers"]): number {
  const [width = 0] = layers.map(({ n_neurons }) => n_neurons);
  const other = layers.findIndex(({ n_neurons }) => n_neurons === 0 || n_neurons !== width);
  if (other < 0 && width > 1) return width;
  const has =
    layers[other]?.n_neurons === 0 ? "no dense MLP" : `${layers[other]?.n_neurons} neurons, layer 0 ${width}`;
  throw new SparkablateError(
    "site_unsupported",
    other < 0
      ? `the model's MLPs have ${width} neurons: none can go`
      : `layer ${other} has ${has}: a stock configuration has one width for all layers`,
    { help: "Remove layers or key/value groups instead, with --unit." },
  );
}
