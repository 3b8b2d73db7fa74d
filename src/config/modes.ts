/** Modes of a config: a key that names several asks for one condition a mode. */
import {
  type LayerMode,
  MODED_KINDS,
  type Mode,
  type ModedKind,
  type SiteKind,
} from "../protocol/catalog.ts";

/** What of a target's spec says its modes: kinds that have none, and the others. */
type Spec =
  | { readonly kind: Exclude<SiteKind, ModedKind>; readonly mode?: LayerMode }
  | { readonly kind: ModedKind; readonly mode: Mode | readonly Mode[] };

/** A target's spec with one mode, as it is measured. */
export type SingleSpec<S> = S extends { readonly kind: ModedKind }
  ? Omit<S, "mode"> & { readonly mode: Mode }
  : S;

export const modesOf = (named: Mode | readonly Mode[]): readonly Mode[] =>
  typeof named === "string" ? [named] : named;

/** Whether some condition of the config, or what is given, may have this mode. */
export function asksFor(
  {
    mode,
    sweep,
    targets,
    given = [],
  }: {
    readonly mode: Mode | readonly Mode[];
    readonly sweep: string;
    readonly targets: readonly (readonly Spec[])[];
    readonly given?: readonly (readonly Spec[])[] | undefined;
  },
  wanted: Mode,
): boolean {
  const sweeps = sweep !== "custom" && sweep !== "layers" && sweep !== "pairs";
  return (
    (sweeps && modesOf(mode).includes(wanted)) ||
    // Of a list a layer is skipped, once.
    (sweep === "layers" && mode === wanted) ||
    [...targets, ...given]
      .flat()
      .some((spec) => (hasModes(spec) ? severalModes(spec).includes(wanted) : spec.mode === wanted))
  );
}

/** An entry of `targets` → its conditions: one a mode where its specs name several, else itself. */
export function onceAMode<S extends Spec>(specs: readonly S[]): SingleSpec<S>[][] {
  const lists = specs.map(severalModes).filter((modes) => modes.length > 1);
  const [modes = [null]] = lists as (readonly (Mode | null)[])[];
  return modes.map((mode) => specs.map((spec) => withMode(spec, mode)));
}

/** Whether the specs of an entry name different lists of modes, so that nothing says which go together. */
export function mixesLists(specs: readonly Spec[]): boolean {
  const lists = specs.map(severalModes).filter((modes) => modes.length > 1);
  return new Set(lists.map((modes) => modes.join())).size > 1;
}

/** None of a spec whose kind has no such modes. */
function severalModes(spec: Spec): readonly Mode[] {
  return hasModes(spec) ? modesOf(spec.mode) : [];
}

const hasModes = (spec: Spec): spec is Extract<Spec, { readonly mode: unknown }> =>
  (MODED_KINDS as readonly SiteKind[]).includes(spec.kind);

function withMode<S extends Spec>(spec: S, mode: Mode | null): SingleSpec<S> {
  if (!hasModes(spec)) return spec as SingleSpec<S>;
  const [first] = modesOf(spec.mode);
  const one = typeof spec.mode === "string" || mode === null ? (first as Mode) : mode;
  return { ...spec, mode: one } as SingleSpec<S>;
}
