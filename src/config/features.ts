/** What a config asks for, and which of it does not meet: said before anything is loaded. */
import { DONOR_MODES, type MetricName, type Positions } from "../protocol/catalog.ts";
import { type FEATURES, type Feature, REFUSALS, type Refusal } from "../protocol/features.ts";
import { configProblem, type Path, refuse } from "./problems.ts";

interface Spec {
  readonly kind: string;
  readonly mode?: string | readonly string[];
  readonly positions?: Positions;
}

/** The parts of a config that decide; a section that could not be read is missing. */
export interface Asking {
  readonly model?: { readonly device_map: string | null } | null | undefined;
  readonly eval?:
    | { readonly task: string | null; readonly metrics: readonly MetricName[] }
    | null
    | undefined;
  readonly ablation?: AskedAblation | null | undefined;
  readonly stop?: object | null | undefined;
}

interface AskedAblation {
  readonly mode: string | readonly string[];
  readonly positions: Positions;
  readonly sweep: string;
  readonly targets: readonly (readonly Spec[])[];
  readonly directions: readonly Pick<Spec, "positions">[];
  readonly given?: readonly (readonly Spec[])[] | undefined;
}

/** Each with the key that asks for it: what the conditions ask for. */
export const featuresOf = (config: Asking): Map<Feature, Path> =>
  withRest(config, config.ablation == null ? [] : editsOf(config.ablation));

/** What the given edits ask for; none where there are none. What the conditions are is another thing. */
const featuresOfGiven = (config: Asking): Map<Feature, Path> =>
  config.ablation?.given?.length ? withRest(config, givenOf(config.ablation.given)) : new Map();

function withRest(
  { model, eval: evaluated, stop }: Asking,
  edits: Iterable<[Feature, Path]>,
): Map<Feature, Path> {
  const found = new Map<Feature, Path>(edits);
  const ask = (feature: Feature, isAsked: boolean, ...path: Path): void => {
    if (isAsked) found.set(feature, path);
  };
  ask("device_map", model?.device_map != null, "model", "device_map");
  ask("text", evaluated?.task === null, "eval", "dataset");
  ask("task", evaluated?.task != null, "eval", "task");
  const metrics = evaluated?.metrics ?? [];
  ask("agreement", metrics.includes("kl") || metrics.includes("top1"), "eval", "metrics");
  ask("logit_diff", metrics.includes("logit_diff"), "eval", "metrics");
  ask("stop", stop != null, "stop");
  return found;
}

function* editsOf(ablation: AskedAblation): Generator<[Feature, Path]> {
  const { mode, positions, sweep, targets, directions } = ablation;
  const isCustom = sweep === "custom";
  // Beside a sweep they are not measured.
  const specs: readonly Spec[] = isCustom
    ? [...targets.flat(), ...directions.map((spec) => ({ kind: "direction", ...spec }))]
    : [{ kind: sweep, mode, positions }];
  yield [sweepOf(ablation), ["ablation", "sweep"]];
  if (specs.some(({ kind }) => kind === "direction")) yield ["directions", ["ablation", "directions"]];
  // Pairs have the edits of the run that they come from.
  if (sweep === "pairs") return;
  const named = specs.flatMap((spec) => (spec.mode === undefined ? [] : [spec.mode]));
  if (named.some((modes) => typeof modes !== "string")) yield ["several_modes", ["ablation", "mode"]];
  // A layer has no modes: of a list it is skipped once.
  for (const one of ["mean", ...DONOR_MODES] as const)
    if (sweep === "layers" ? named.includes(one) : named.flat().includes(one))
      yield [one, ["ablation", "mode"]];
  if (specs.some((spec) => spec.positions === "not_first")) yield ["not_first", ["ablation", "positions"]];
}

function* givenOf(given: readonly (readonly Spec[])[]): Generator<[Feature, Path]> {
  const path = ["ablation", "given"];
  const specs = given.flat();
  yield ["given", path];
  for (const one of ["mean", ...DONOR_MODES] as const)
    if (specs.some(({ mode }) => mode === one)) yield [one, path];
  if (specs.some(({ positions }) => positions === "not_first")) yield ["not_first", path];
}

const sweepOf = ({ sweep }: AskedAblation): Feature =>
  sweep === "layers" || sweep === "pairs" ? sweep : sweep === "custom" ? "targets" : "sites";

interface Clash {
  readonly path: Path;
  readonly refusal: Refusal;
}

/** What a config asks for and does not meet, at the key of what is in the way. @param command what it is for. */
export const clashesOf = (config: Asking, command?: CommandFeature): Clash[] =>
  [featuresOf(config), featuresOfGiven(config)].flatMap((asked) => {
    if (command !== undefined && asked.size > 0) asked.set(command, []);
    return clashes(asked);
  });

function clashes(asked: ReadonlyMap<Feature, Path>): Clash[] {
  return REFUSALS.flatMap((refusal) => {
    const [path, other] = refusal.features.map((feature) => asked.get(feature));
    return path !== undefined && other !== undefined ? [{ path, refusal }] : [];
  });
}

/** @throws SparkablateError where the command cannot do what the config asks for, at the key that does. */
export function requireMeeting(config: Asking & object, command: CommandFeature): void {
  refuse(
    clashesOf(config, command)
      .filter(({ refusal }) => refusal.features.includes(command))
      .map(({ path, refusal: { code, sentence } }) => configProblem(config, code, path, sentence)),
  );
}

type CommandFeature = { [F in Feature]: (typeof FEATURES)[F]["part"] extends "command" ? F : never }[Feature];
