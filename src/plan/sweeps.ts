/** Which conditions a sweep over sites has in one layer: one row a sweep. */

import { modesOf } from "../config/modes.ts";
import type { AblationConfig, SITE_SWEEPS } from "../config/schema.ts";
import type { Intervention, Mode, ModelMap, SiteKind } from "../protocol/messages.ts";

type Layer = ModelMap["layers"][number];
type Edit = Pick<Extract<Intervention, { kind: "mlp" }>, "layer" | "mode" | "positions">;

interface Sweep {
  /** The site that the layer must offer. */
  readonly site: SiteKind;
  readonly interventions: (edit: Edit, layer: Layer) => Intervention[];
}

export type SiteSweep = (typeof SITE_SWEEPS)[number];

const SWEEPS: Readonly<Record<SiteSweep, Sweep>> = {
  layers: { site: "layer", interventions: ({ layer }) => [{ kind: "layer", layer, mode: "skip" }] },
  heads: {
    site: "head",
    interventions: ({ layer, mode, positions }, { n_heads }) =>
      numbers(n_heads).map((head) => ({ kind: "head", heads: [head], layer, mode, positions })),
  },
  kv_groups: {
    site: "kv_group",
    interventions: ({ layer, mode, positions }, { n_kv_heads }) =>
      numbers(n_kv_heads).map((group) => ({ kind: "kv_group", groups: [group], layer, mode, positions })),
  },
  mlp: { site: "mlp", interventions: (edit) => [{ kind: "mlp", ...edit }] },
  attn: { site: "attn", interventions: (edit) => [{ kind: "attn", ...edit }] },
};

const numbers = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

/** One intervention a condition; none where the layer does not offer the sweep's site. */
export function sweepEdits(
  sweep: SiteSweep,
  { mode, positions }: Pick<AblationConfig, "mode" | "positions">,
  map: ModelMap,
  layer: number,
): Intervention[] {
  const described = map.layers[layer];
  if (described === undefined) return [];
  const { site, interventions } = SWEEPS[sweep];
  if (!described.sites.includes(site)) return [];
  // A skipped layer has no other mode: it stands once.
  const modes: readonly Mode[] = site === "layer" ? ["zero"] : modesOf(mode);
  return modes.flatMap((one) => interventions({ layer, mode: one, positions }, described));
}
