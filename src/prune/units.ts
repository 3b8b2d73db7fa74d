/** What a search removes one of, and how a unit is written as a condition. */
export interface UnitRow {
  /** One of them, and several, for a person. */
  readonly one: string;
  readonly many: string;
  /** The sweep that measures each of them alone. */
  readonly sweep: "layers";
  /** The unit of a condition's id, and back. */
  readonly id: (unit: number) => string;
  readonly of: (condition: string) => number;
}

/** What a search removes one of. */
export type Unit = "layers";

export const UNITS: Readonly<Record<Unit, UnitRow>> = {
  layers: {
    one: "layer",
    many: "layers",
    sweep: "layers",
    id: (layer) => `L${layer}.layer.skip`,
    of: (condition) => Number(/^L(\d+)\.layer\.skip$/.exec(condition)?.[1]),
  },
};
