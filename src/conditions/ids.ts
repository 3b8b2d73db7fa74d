/** The canonical form of a condition, and the id that follows from it alone. */
import { sha256 } from "../digest.ts";
import { LIMITS, SITE_KINDS } from "../protocol/catalog.ts";
import type { Intervention } from "../protocol/messages.ts";
import { listedParts, withParts } from "./parts.ts";

type Direction = Extract<Intervention, { kind: "direction" }>;

export const BASELINE_ID = "baseline";

/** Equal edits in equal order: heads of one layer, mode and positions are one intervention; layers rise; directions stand last. */
export function canonical(interventions: readonly Intervention[]): Intervention[] {
  const merged = new Map<string, Intervention>();
  for (const [index, intervention] of interventions.entries()) {
    const parts = listedParts(intervention);
    if (parts === null || !("positions" in intervention && "layer" in intervention)) {
      merged.set(String(index), intervention);
      continue;
    }
    const { kind, layer, mode, positions } = intervention;
    const key = [kind, layer, mode, positions].join();
    const before = merged.get(key);
    // Neither a spread nor sort() in place: both leave lists with room to grow, and a sweep has 100,000 of them.
    const list = ((before && listedParts(before)) ?? []).concat(parts).toSorted((a, b) => a - b);
    merged.set(key, withParts(intervention, list));
  }
  return [...merged.values()].sort(compare);
}

function compare(a: Intervention, b: Intervention): number {
  return (
    layerOf(a) - layerOf(b) ||
    SITE_KINDS.indexOf(a.kind) - SITE_KINDS.indexOf(b.kind) ||
    compareText(interventionId(a), interventionId(b))
  );
}

const layerOf = (intervention: Intervention): number =>
  intervention.kind === "direction" ? Number.MAX_SAFE_INTEGER : intervention.layer;

/** By code units: the same order everywhere, whatever the locale. */
const compareText = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

/** `L14.head[3,7].zero`, `L5.mlp.mean@not_first`, `L26.layer.skip`, `dir[1a2b3c4d].project_out(at=stream)`. */
export function interventionId(intervention: Intervention): string {
  if (intervention.kind === "direction") return directionId(intervention);
  if (intervention.kind === "layer") return `L${intervention.layer}.layer.${intervention.mode}`;
  const { kind, layer, mode, positions } = intervention;
  const list = listedParts(intervention);
  return `L${layer}.${kind}${list === null ? "" : `[${list.join(",")}]`}.${mode}${positions === "all" ? "" : `@${positions}`}`;
}

function directionId({ op, at, layers, coefficient, positions, sha256 }: Direction): string {
  const details = [
    // `add` exists at the stream only
    ...(op === "project_out" && at === "stream" ? ["at=stream"] : []),
    ...(layers === "all" ? [] : [`layers=[${layers.join(",")}]`]),
    ...(coefficient === 1 ? [] : [`coefficient=${coefficient}`]),
  ];
  const shown = details.length > 0 ? `(${details.join(",")})` : "";
  return `dir[${sha256.slice(0, 8)}].${op}${shown}${positions === "all" ? "" : `@${positions}`}`;
}

/** @param interventions in canonical form. */
export function conditionId(interventions: readonly Intervention[]): string {
  if (interventions.length === 0) return BASELINE_ID;
  const id = interventions.map(interventionId).join(" + ");
  if (id.length <= LIMITS.id_length) return id;
  return `joint[${interventions.length} interventions, ${sha256(id).slice(0, 16)}]`;
}
