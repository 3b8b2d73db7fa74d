/** What a search removes one of: how a unit is written as a condition, and which a model has. */
import { SparkablateError } from "../errors.ts";
import type { ModelMap } from "../protocol/messages.ts";
import type { UnitSet } from "./search.ts";

export interface UnitRow {
  /** One of them, and several, for a person. */
  readonly one: string;
  readonly many: string;
  /** The sweep that measures each of them alone. */
  readonly sweep: "layers";
  /** The unit of a condition's id, and back. */
  readonly id: (unit: number) => string;
  readonly of: (condition: string) => number;
  /** Those that a model offers. @throws SparkablateError site_unsupported where there are fewer than two. */
  readonly offered: (map: ModelMap) => UnitSet;
}

export const UNITS = {
  layers: {
    one: "layer",
    many: "layers",
    sweep: "layers",
    id: (layer) => `L${layer}.layer.skip`,
    of: (condition) => Number(/^L(\d+)\.layer\.skip$/.exec(condition)?.[1]),
    offered: (map) => {
      const layers = map.layers.flatMap(({ sites }, layer) => (sites.includes("layer") ? [layer] : []));
      if (layers.length > 1) return layers;
      throw new SparkablateError(
        "site_unsupported",
        `${map.model_type} offers no two layers that can be skipped`,
      );
    },
  },
} as const satisfies Record<string, UnitRow>;

/** What a search removes one of. */
export type Unit = keyof typeof UNITS;
