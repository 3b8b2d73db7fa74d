/** Conditions that are written as ids: `L3..5.mlp.mean`, `dir[1a2b3c4d].project_out`. They become specs like any other. */
import { directionNamed, parseCondition, type WrittenEdit } from "../conditions/parse.ts";
import { SparkablateError } from "../errors.ts";
import type { Intervention } from "../protocol/messages.ts";

/** What ids may name beside sites: given by the command line, which knows files and runs. */
export interface Named {
  /** Direction files by the sha256 of their vector. */
  readonly directions: ReadonlyMap<string, string>;
  /** The edits of an id that was too long to be printed; undefined: no given run holds it. */
  readonly joint: (id: string) => readonly Intervention[] | undefined;
}

export const NOTHING_NAMED: Named = { directions: new Map(), joint: () => undefined };

/**
 * The specs of an entry, as a config has them.
 * @throws SparkablateError config_invalid, conditions_overlap.
 */
export function specsOf(text: string, named: Named): Record<string, unknown>[] {
  return parseCondition(text, { n_layers: "later", joint: named.joint }).map((one) =>
    specOf(one, text, named),
  );
}

function specOf(one: WrittenEdit, text: string, { directions }: Named): Record<string, unknown> {
  if (one.kind !== "direction") return one;
  if (directions.size === 0)
    throw new SparkablateError(
      "config_invalid",
      `"${text}": no direction is given that dir[${one.digest}] could name: give its file with --direction, or in a config as {kind: direction, path: FILE, op: ${one.op}}`,
    );
  const { digest, ...rest } = one;
  const path = directions.get(directionNamed(text, digest, [...directions.keys()]));
  return { ...rest, path };
}
