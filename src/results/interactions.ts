/** Pure: what several edits do together beyond the sum of what each of them does alone. */
import { conditionId } from "../conditions/ids.ts";
import { atoms } from "../conditions/parts.ts";
import type { Condition } from "../protocol/messages.ts";
import { type Estimate, interactionEffect } from "../statistics/effects.ts";
import type { ConditionMeasurements } from "./row.ts";

type Named = Pick<Condition, "id" | "interventions">;

/** Id of a joint condition → ids of the conditions that are its parts, where all of them are in the run. */
export type Parts = ReadonlyMap<string, readonly string[]>;

/**
 * A part is one head or key/value group where the run has each of them alone, else one whole intervention. A
 * condition whose parts are not all in the run has no interaction.
 * @param conditions gives the same ones each time; only ids and parts are kept.
 */
export function partsOf(conditions: () => Iterable<Named>): Parts {
  if (!Iterator.from(conditions()).some(isJoint)) return new Map();
  const ids = new Set<string>();
  for (const { id } of conditions()) ids.add(id);
  const found = new Map<string, readonly string[]>();
  for (const condition of conditions()) {
    if (!isJoint(condition)) continue;
    const { id, interventions } = condition;
    const parts = interventions.map((one) =>
      [atoms(one), [one]]
        .map((split) => split.map((part) => conditionId([part])))
        .find((split) => split.every((part) => part !== id && ids.has(part))),
    );
    if (parts.every((part) => part !== undefined)) found.set(id, parts.flat());
  }
  return found;
}

const isJoint = ({ interventions }: Named): boolean => interventions.flatMap(atoms).length > 1;

/** Δ NLL of a joint condition minus the sum of its parts'. */
export interface JointEffect {
  readonly parts: readonly string[];
  /** On the blocks that the condition, its parts and the baseline have; null where they share none, or one failed. */
  readonly effect: Estimate | null;
}

/** Takes a run's measurements one by one, and keeps those that some interaction needs. */
export class JointEffects {
  readonly #parts: Parts;
  readonly #needed: ReadonlySet<string>;
  /** Condition → sum of NLL by block, NaN where there is none  # [last block + 1] */
  readonly #sums = new Map<string, Float64Array>();

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#needed = new Set([...parts].flatMap(([id, ids]) => [id, ...ids]));
  }

  add({ condition, blocks, sums, error }: ConditionMeasurements): void {
    if (error !== null || !this.#needed.has(condition.id)) return;
    this.#sums.set(condition.id, sumsByBlock(blocks, sums.nll));
  }

  /** By the joint condition's id. */
  estimates({ blocks, sums, tokens }: ConditionMeasurements): Map<string, JointEffect> {
    const baseline = sumsByBlock(blocks, sums.nll);
    return new Map(
      [...this.#parts].map(([id, parts]) => {
        const all = [id, ...parts].map((one) => this.#sums.get(one) ?? new Float64Array());
        const common = blocks.filter((block) => all.every((one) => !Number.isNaN(one[block] ?? Number.NaN)));
        const values = (one: Float64Array) => Float64Array.from(common, (block) => one[block] as number);
        const [joint, ...single] = all.map(values) as [Float64Array, ...Float64Array[]];
        const usable = common.length > 0 && [joint, ...single].every((one) => one.every(Number.isFinite));
        const effect = usable ? interactionEffect(joint, single, values(baseline), tokens) : null;
        return [id, { parts, effect }];
      }),
    );
  }
}

/** @param blocks ascending. */
function sumsByBlock(blocks: readonly number[], nll: Float64Array = new Float64Array()): Float64Array {
  const byBlock = new Float64Array((blocks.at(-1) ?? -1) + 1).fill(Number.NaN);
  for (const [index, block] of blocks.entries()) byBlock[block] = nll[index] ?? Number.NaN;
  return byBlock;
}
