/** What a condition may not ask for: sites the model lacks, and edits that get in each other's way. */
import type { ErrorCode } from "../errors.ts";
import { partsOf, SITE_KINDS, SITES, type SiteKind } from "../protocol/catalog.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";
import { interventionId } from "./ids.ts";
import { countOf, listedParts } from "./parts.ts";

type Direction = Extract<Intervention, { kind: "direction" }>;

/** `key`: the key of the spec that is wrong. */
export type Complain = (code: ErrorCode, message: string, key: string) => void;

/** "0 to 29 (the model has 30 layers)" */
function range(count: number, owner: string, what: string): string {
  return `${count === 0 ? "none" : `0 to ${count - 1}`} (${owner} has ${count} ${what}s)`;
}

/** Whether the layer exists; complains where it does not. */
export function checkLayer(layer: number, map: ModelMap, key: string, complain: Complain): boolean {
  if (layer < map.layers.length) return true;
  complain(
    "config_invalid",
    `layer ${layer} does not exist; allowed: ${range(map.layers.length, "the model", "layer")}`,
    key,
  );
  return false;
}

/** Whether the model has what the intervention edits. */
export function checkSites(intervention: Intervention, map: ModelMap, complain: Complain): void {
  const { kind } = intervention;
  const listed = kind === "direction" ? intervention.layers : [intervention.layer];
  const key = kind === "direction" ? "layers" : "layer";
  for (const layer of listed === "all" ? map.layers.keys() : listed) {
    if (!checkLayer(layer, map, key, complain)) continue;
    const sites = map.layers[layer]?.sites ?? [];
    if (!sites.includes(kind)) {
      const offered = sites.length > 0 ? sites.join(", ") : "none";
      complain(
        "site_unsupported",
        `layer ${layer} has no site ${kind}; allowed: ${offered}`,
        kind === "direction" ? key : "kind",
      );
      continue;
    }
    checkParts(intervention, map.layers[layer], layer, complain);
  }
}

function checkParts(
  intervention: Intervention,
  described: ModelMap["layers"][number] | undefined,
  layer: number,
  complain: Complain,
): void {
  const parts = partsOf(intervention.kind);
  const count = countOf(intervention.kind, described);
  if (parts === null) return;
  for (const index of listedParts(intervention)?.filter((value) => value >= count) ?? []) {
    complain(
      "config_invalid",
      `${parts.one} ${index} does not exist; allowed: ${range(count, `layer ${layer}`, parts.one)}`,
      parts.field,
    );
  }
}

/**
 * Complaints about pairs of interventions that cannot be one condition, each naming both.
 * @param map null: before the model is known; then heads are not compared with the groups that hold them.
 */
export function overlaps(interventions: readonly Intervention[], map: ModelMap | null): string[] {
  return interventions.flatMap((second, index) =>
    interventions.slice(0, index).flatMap((first) => {
      const why = conflict(first, second, map);
      return why === undefined
        ? []
        : [`${interventionId(first)} and ${interventionId(second)} overlap: ${why}`];
    }),
  );
}

/** One rule: one contains the other, or both are the same kind and share a part. Directions have one more, of their own. */
function conflict(a: Intervention, b: Intervention, map: ModelMap | null): string | undefined {
  if (a.kind === "direction" && b.kind === "direction") return directionConflict(a, b);
  if (a.kind === b.kind) return sameKindConflict(a, b);
  return containedConflict(a, b, map) ?? containedConflict(b, a, map);
}

const acts = (intervention: Intervention, layer: number): boolean =>
  intervention.kind !== "direction"
    ? intervention.layer === layer
    : intervention.layers === "all" || intervention.layers.includes(layer);

function sameKindConflict(a: Intervention, b: Intervention): string | undefined {
  if (a.kind === "direction" || !acts(b, a.layer)) return undefined;
  const parts = partsOf(a.kind);
  if (parts === null) return SITES[a.kind].edit === "skip" ? SKIPPED : "the same site twice: remove one";
  return sharing(parts.one, listedParts(a) ?? [], listedParts(b) ?? []);
}

const SKIPPED = "the layer is skipped, so nothing else can be edited in it: choose another layer";

/** @param whole whether it contains the `part`. */
function containedConflict(
  part: Intervention,
  whole: Intervention,
  map: ModelMap | null,
): string | undefined {
  if (whole.kind === "direction" || !isWithin(part.kind, whole.kind) || !acts(part, whole.layer))
    return undefined;
  // What its writes lack, its constant lacks.
  if (whole.kind === "layer" && whole.mode === "mean" && part.kind === "direction") return undefined;
  if (SITES[whole.kind].edit === "skip") return SKIPPED;
  const listed = listedParts(part);
  const { one, field } = partsOf(part.kind) ?? { one: part.kind, field: part.kind };
  if (partsOf(whole.kind) === null) return `${field} are part of ${whole.kind}: keep one of the two`;
  return sharing(one, listed ?? [], held(whole, map?.layers[whole.layer]));
}

/** Whether the site, or one that it is a part of, is a part of the other. */
export function isWithin(kind: SiteKind, whole: SiteKind): boolean {
  const { within } = SITES[kind];
  return within !== null && (within === whole || isWithin(within, whole));
}

function sharing(one: string, first: readonly number[], second: readonly number[]): string | undefined {
  const shared = first.filter((part) => second.includes(part));
  return shared.length > 0 ? `both edit ${one} ${shared.join(", ")}: remove them from one` : undefined;
}

/** The finer site's parts that the listed ones hold, each as many consecutive ones; none before the layer is known. */
function held(whole: Intervention, layer: ModelMap["layers"][number] | undefined): readonly number[] {
  const count = countOf(whole.kind, layer);
  const holds = partsOf(whole.kind)?.holds ?? null;
  if (count === 0 || holds === null || layer === undefined) return [];
  const size = layer[holds] / count;
  return (listedParts(whole) ?? []).flatMap((part) =>
    Array.from({ length: size }, (_, index) => part * size + index),
  );
}

/** The smallest parts that it edits, those of a group by what it holds; what is edited whole is one of its own. */
export function unitsOf(one: Exclude<Intervention, Direction>, map: ModelMap): string[] {
  const parts = partsOf(one.kind);
  if (parts === null) return [one.kind];
  const finer = parts.holds === null ? parts : FINER[parts.holds];
  const listed = parts.holds === null ? (listedParts(one) ?? []) : held(one, map.layers[one.layer]);
  return listed.map((part) => `${finer?.one} ${part}`);
}

/** Of a count of parts, the site's parts that it counts. */
const FINER = Object.fromEntries(
  SITE_KINDS.flatMap((kind) => {
    const parts = partsOf(kind);
    return parts !== null && parts.holds === null ? [[parts.count, parts] as const] : [];
  }),
);

/** A condition has no order: two directions at one place must give the same in either. */
export function directionConflict(a: Direction, b: Direction): string | undefined {
  const meet =
    a.at === b.at && (a.layers === "all" || b.layers === "all" || a.layers.some((layer) => acts(b, layer)));
  if (!meet) return undefined;
  if (a.sha256 === b.sha256 && a.op === b.op) return "the same direction twice at one place: remove one";
  if (a.op === "add" && b.op === "add") return undefined;
  if (a.op !== b.op) return "the order of add and project_out would matter: use different layers";
  if (a.coefficient !== 1 || b.coefficient !== 1) {
    return "several project_out at one place: set their coefficient to 1";
  }
  return a.positions === b.positions
    ? undefined
    : "several project_out at one place: give them the same positions";
}
