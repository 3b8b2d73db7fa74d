/** The parts of a site that an intervention lists: heads, groups, … */
import { type PartField, partsOf } from "../protocol/catalog.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";

/** In the order in which they are listed; null: the site is edited whole. */
export function listedParts(intervention: Intervention): readonly number[] | null {
  const parts = partsOf(intervention.kind);
  // One field or another, as the kind says: which one, the types cannot follow.
  return parts && (intervention as unknown as Record<PartField, readonly number[]>)[parts.field];
}

/** The same edit of other parts. */
export function withParts<I extends Intervention>(intervention: I, list: readonly number[]): I {
  const parts = partsOf(intervention.kind);
  return parts === null ? intervention : { ...intervention, [parts.field]: list };
}

/** The smallest edits that it is made of: one part each; what is edited whole is one. */
export function atoms(intervention: Intervention): Intervention[] {
  return listedParts(intervention)?.map((part) => withParts(intervention, [part])) ?? [intervention];
}

/** How many parts of this kind of site a layer has. */
export function countOf(kind: Intervention["kind"], layer: ModelMap["layers"][number] | undefined): number {
  const parts = partsOf(kind);
  return parts === null ? 0 : (layer?.[parts.count] ?? 0);
}
