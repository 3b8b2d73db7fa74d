/** What a condition may not ask for: sites the model lacks, and edits that get in each other's way. */
import type { ErrorCode } from "../errors.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";
import { interventionId } from "./ids.ts";

type Direction = Extract<Intervention, { kind: "direction" }>;
type Site = Exclude<Intervention, { kind: "direction" }>;

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
    if (kind === "head")
      checkIndices(intervention.heads, map.layers[layer]?.n_heads ?? 0, layer, "head", "heads", complain);
    if (kind === "kv_group") {
      checkIndices(
        intervention.groups,
        map.layers[layer]?.n_kv_heads ?? 0,
        layer,
        "group",
        "groups",
        complain,
      );
    }
  }
}

function checkIndices(
  list: readonly number[],
  count: number,
  layer: number,
  what: string,
  key: string,
  complain: Complain,
): void {
  for (const index of list.filter((value) => value >= count)) {
    complain(
      "config_invalid",
      `${what} ${index} does not exist; allowed: ${range(count, `layer ${layer}`, what)}`,
      key,
    );
  }
}

/**
 * Complaints about pairs of interventions that cannot be one condition, each naming both.
 * @param map null: before the model is known; then heads are not compared with kv_groups.
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

function conflict(a: Intervention, b: Intervention, map: ModelMap | null): string | undefined {
  if (a.kind === "direction") return b.kind === "direction" ? directionConflict(a, b) : skipConflict(b, a);
  return b.kind === "direction" ? skipConflict(a, b) : siteConflict(a, b, map);
}

const SKIPPED = "nothing else is edited in a layer that is skipped; allowed: other layers";

function skipConflict(site: Site, direction: Direction): string | undefined {
  return site.kind === "layer" && acts(direction, site.layer) ? SKIPPED : undefined;
}

const acts = ({ layers }: Direction, layer: number): boolean => layers === "all" || layers.includes(layer);

function siteConflict(a: Site, b: Site, map: ModelMap | null): string | undefined {
  if (a.layer !== b.layer) return undefined;
  if (a.kind === "layer" || b.kind === "layer") return SKIPPED;
  if (a.kind === "mlp" || b.kind === "mlp")
    return a.kind === b.kind ? "one site, twice; allowed: once" : undefined;
  if (a.kind === "attn" || b.kind === "attn") {
    return a.kind === b.kind
      ? "one site, twice; allowed: once"
      : "heads are part of attn; allowed: one of the two";
  }
  const heads = a.kind === b.kind ? listed(a) : headsOf(a, map);
  const others = a.kind === b.kind ? listed(b) : headsOf(b, map);
  const shared = heads.filter((head) => others.includes(head));
  const what = a.kind === "kv_group" && b.kind === "kv_group" ? "group" : "head";
  return shared.length > 0 ? `both edit ${what} ${shared.join(", ")}; allowed: once` : undefined;
}

type HeadSite = Extract<Site, { kind: "head" | "kv_group" }>;

const listed = (site: HeadSite): readonly number[] => (site.kind === "head" ? site.heads : site.groups);

/** Query heads that the site edits; group g holds n_heads / n_kv_heads consecutive ones. */
function headsOf(site: HeadSite, map: ModelMap | null): readonly number[] {
  if (site.kind === "head") return site.heads;
  const layer = map?.layers[site.layer];
  if (layer === undefined || layer.n_kv_heads === 0) return [];
  const size = layer.n_heads / layer.n_kv_heads;
  return site.groups.flatMap((group) => Array.from({ length: size }, (_, index) => group * size + index));
}

/** A condition has no order: two directions at one place must give the same in either. */
function directionConflict(a: Direction, b: Direction): string | undefined {
  const meet =
    a.at === b.at && (a.layers === "all" || b.layers === "all" || a.layers.some((layer) => acts(b, layer)));
  if (!meet) return undefined;
  if (a.sha256 === b.sha256 && a.op === b.op) return "one direction, twice at one place; allowed: once";
  if (a.op === "add" && b.op === "add") return undefined;
  if (a.op !== b.op) return "the order of add and project_out would matter; allowed: different layers";
  if (a.coefficient !== 1 || b.coefficient !== 1) {
    return "several project_out at one place; allowed: with coefficient 1 only";
  }
  return a.positions === b.positions
    ? undefined
    : "several project_out at one place; allowed: at the same positions only";
}
