/** Which conditions a sweep over sites has in one layer. */

import { countOf } from "../conditions/parts.ts";
import { modesOf } from "../config/modes.ts";
import type { AblationConfig } from "../config/schema.ts";
import { type Mode, partsOf, SITE_KINDS, SITES, type SiteKind, type SiteSweep } from "../protocol/catalog.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";

/** The site that a sweep goes over. */
export const sweptSite = (sweep: SiteSweep): SiteKind =>
  SITE_KINDS.find((kind) => SITES[kind].sweep === sweep) as SiteKind;

/** One intervention a condition; none where the layer does not offer the sweep's site. */
export function sweepEdits(
  sweep: SiteSweep,
  { mode, positions }: Pick<AblationConfig, "mode" | "positions">,
  map: ModelMap,
  layer: number,
): Intervention[] {
  const described = map.layers[layer];
  const kind = sweptSite(sweep);
  if (!described?.sites.includes(kind)) return [];
  // Of a list of modes it is skipped, once.
  if (SITES[kind].edit === "skip")
    return [{ kind, layer, mode: mode === "mean" ? "mean" : "skip" } as Intervention];
  return modesOf(mode).flatMap((one) => sites(kind, { layer, mode: one, positions }, described));
}

interface Edit {
  readonly layer: number;
  readonly mode: Mode;
  readonly positions: AblationConfig["positions"];
}

/** The whole site, or each of its parts alone. */
function sites(kind: SiteKind, edit: Edit, layer: ModelMap["layers"][number]): Intervention[] {
  const parts = partsOf(kind);
  if (parts === null) return [{ kind, ...edit } as Intervention];
  return Array.from(
    { length: countOf(kind, layer) },
    (_, part) => ({ kind, [parts.field]: [part], ...edit }) as unknown as Intervention,
  );
}
