/** Modes of a config: a key that names several asks for one condition a mode. */
import type { MODES } from "../protocol/messages.ts";
import type { AblationConfig, TargetSpec } from "./schema.ts";

export type Mode = (typeof MODES)[number];

/** A target's spec with one mode, as it is measured. */
export type SingleSpec<S = TargetSpec> = S extends { readonly kind: "layer" | "direction" }
  ? S
  : Omit<S, "mode"> & { readonly mode: Mode };

export const modesOf = (named: Mode | readonly Mode[]): readonly Mode[] =>
  typeof named === "string" ? [named] : named;

/** Whether some condition of the config may have this mode. */
export function asksFor({ mode, sweep, targets }: AblationConfig, wanted: Mode): boolean {
  const sweeps = sweep !== "custom" && sweep !== "layers" && sweep !== "pairs";
  return (
    (sweeps && modesOf(mode).includes(wanted)) ||
    targets.flat().some((spec) => severalModes(spec).includes(wanted))
  );
}

/** An entry of `targets` → its conditions: one a mode where its specs name several, else itself. */
export function onceAMode(specs: readonly TargetSpec[]): SingleSpec[][] {
  const lists = specs.map(severalModes).filter((modes) => modes.length > 1);
  const [modes = [null]] = lists as (readonly (Mode | null)[])[];
  return modes.map((mode) => specs.map((spec) => withMode(spec, mode)));
}

/** Whether the specs of an entry name different lists of modes, so that nothing says which go together. */
export function mixesLists(specs: readonly TargetSpec[]): boolean {
  const lists = specs.map(severalModes).filter((modes) => modes.length > 1);
  return new Set(lists.map((modes) => modes.join())).size > 1;
}

/** None of a spec whose kind has no such modes. */
function severalModes(spec: TargetSpec): readonly Mode[] {
  return spec.kind === "layer" || spec.kind === "direction" ? [] : modesOf(spec.mode);
}

function withMode(spec: TargetSpec, mode: Mode | null): SingleSpec {
  if (spec.kind === "layer" || spec.kind === "direction") return spec;
  const [first] = modesOf(spec.mode);
  return { ...spec, mode: typeof spec.mode === "string" || mode === null ? (first as Mode) : mode };
}
