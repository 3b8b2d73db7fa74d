/** What conditions need beside the rows that they are measured on: means, and donors. */
import { DONOR_MODES, type DonorMode, SITES, type ValueKind } from "../protocol/catalog.ts";
import type { Condition, Intervention, MeanSite } from "../protocol/messages.ts";

export interface Plan {
  /** Edits that all conditions are measured on top of, the baseline too, in canonical order; absent: none. */
  readonly given?: readonly Intervention[];
  /** The baseline first. */
  readonly conditions: Condition[];
  /** What a person should know, e.g. layers that a sweep cannot edit. */
  readonly notices: string[];
}

/** What a run's conditions need beside the evaluation rows. */
export interface Needs {
  readonly means: boolean;
  readonly donors: readonly DonorMode[];
}

/** Calibrated means, as they are stored with the run and sent to every worker. */
export interface Means {
  readonly sha256: string;
  readonly sites: readonly MeanSite[];
  readonly vectors: Uint8Array;
}

/** A plan's conditions, and what is given as one more. */
export const edited = ({ given, conditions }: Plan): readonly Condition[] =>
  given === undefined ? conditions : [...conditions, { id: "given", interventions: [...given] }];

/** The sites whose mean some condition needs, each once, in canonical order. */
export function meanSites(conditions: readonly Condition[]): Omit<MeanSite, "width">[] {
  const sites = new Map<string, Omit<MeanSite, "width">>();
  for (const { interventions } of conditions) {
    for (const one of interventions) {
      if (!("mode" in one) || one.mode !== "mean") continue;
      const kind: ValueKind = SITES[one.kind].values;
      const positions = one.kind === "layer" ? "all" : one.positions;
      const site = { kind, layer: one.layer, positions };
      sites.set(JSON.stringify(site), site);
    }
  }
  return [...sites.values()];
}

/** Modes with a donor that some condition has. */
export function donorModes(conditions: readonly Condition[]): DonorMode[] {
  return DONOR_MODES.filter((mode) =>
    conditions.some(({ interventions }) => interventions.some((one) => "mode" in one && one.mode === mode)),
  );
}
