/**
 * Edits that everything is measured on top of, and a condition with them: one joint condition. The worker's
 * edits/given.py is the same in Python, message for message.
 */
import type { Intervention, ModelMap } from "../protocol/messages.ts";
import { canonical, conditionId, interventionId } from "./ids.ts";
import { directionConflict, isWithin, unitsOf } from "./overlaps.ts";
import { listedParts } from "./parts.ts";

type Direction = Extract<Intervention, { kind: "direction" }>;

/** Of the sites that one edit acts at, those that another acts at too. */
type Shared = "none" | "some" | "all";

/** A condition on top of given edits: all that acts, canonical; or why it cannot be measured. */
export type Joined =
  | { readonly interventions: readonly Intervention[]; readonly refusal: null }
  | { readonly interventions: null; readonly refusal: string };

/** @param condition of which the parts that the given edits hold are replaced, where it contains all of them. */
export function joined(
  given: readonly Intervention[],
  condition: readonly Intervention[],
  map: ModelMap,
): Joined {
  const [own, base] = [canonical(condition), canonical(given)];
  const refused = (why: string): Joined => ({
    interventions: null,
    refusal: `${conditionId(own)} cannot be measured: ${why}`,
  });
  const inside = own.find((one) => isCovered(base, one, map));
  if (inside !== undefined)
    return refused(`${interventionId(inside)} lies in what ablation.given edits (${conditionId(base)})`);
  const replaced = new Set<Intervention>();
  for (const below of base) {
    for (const one of own) {
      const shared = sharedBy(below, one, map);
      const why =
        shared === "some" ? "a part of it" : shared === "none" ? conflict(below, one, map) : undefined;
      if (why !== undefined)
        return refused(`${interventionId(one)} overlaps ${interventionId(below)} of ablation.given: ${why}`);
      if (shared === "all") replaced.add(below);
    }
  }
  const kept = base.filter((below) => !replaced.has(below));
  return { interventions: canonical([...kept, ...own]), refusal: null };
}

/** How much of where `below` acts `one` edits as well, and so would edit twice. */
function sharedBy(below: Intervention, one: Intervention, map: ModelMap): Shared {
  if (below.kind !== "direction" && one.kind !== "direction") {
    if (below.layer !== one.layer) return "none";
    if (isWithin(below.kind, one.kind) && listedParts(one) === null) return "all";
    return share(unitsOf(below, map), unitsOf(one, map));
  }
  if (below.kind === "direction" && one.kind === "direction") {
    const same = below.op === one.op && below.sha256 === one.sha256 && below.at === one.at;
    return same ? share(placesOf(below, map), placesOf(one, map)) : "none";
  }
  const [skip, direction] = below.kind === "direction" ? [one, below] : [below, one as Direction];
  if (skip.kind === "direction" || !isSkip(skip)) return "none";
  const places = placesOf(direction, map);
  if (!places.includes(skip.layer)) return "none";
  return skip === one && places.length === 1 ? "all" : "some";
}

/** Whether nothing is left of the layer; of its mean, a direction is taken out as it is of its writes. */
const isSkip = (one: Intervention): boolean => one.kind === "layer" && one.mode === "skip";

function share<T>(theirs: readonly T[], mine: readonly T[]): Shared {
  if (!theirs.some((one) => mine.includes(one))) return "none";
  return theirs.every((one) => mine.includes(one)) ? "all" : "some";
}

/** The layers that it acts in; −1: the embedding. */
function placesOf({ at, layers }: Direction, map: ModelMap): readonly number[] {
  if (layers !== "all") return layers;
  return [...map.layers.keys(), ...(at === "writes" ? [-1] : [])];
}

/** Whether all that `one` edits is edited by them: by one as a whole, or by several part by part. */
function isCovered(given: readonly Intervention[], one: Intervention, map: ModelMap): boolean {
  if (one.kind === "direction") {
    const held = given.flatMap((below): readonly number[] => {
      if (below.kind !== "direction") return isSkip(below) ? [below.layer] : [];
      return sharedBy(below, one, map) === "none" ? [] : placesOf(below, map);
    });
    return share(placesOf(one, map), held) === "all";
  }
  const here = given.flatMap((below) =>
    below.kind !== "direction" && below.layer === one.layer ? [below] : [],
  );
  if (here.some((below) => isWithin(one.kind, below.kind) && listedParts(below) === null)) return true;
  const held = here.flatMap((below) => unitsOf(below, map));
  return share(unitsOf(one, map), held) === "all";
}

/** Why two different directions cannot act at one place. */
function conflict(below: Intervention, one: Intervention, map: ModelMap): string | undefined {
  if (below.kind !== "direction" || one.kind !== "direction" || below.at !== one.at) return undefined;
  return share(placesOf(below, map), placesOf(one, map)) === "none"
    ? undefined
    : directionConflict(below, one);
}
