/**
 * (RunConfig, ModelMap) → the conditions of the run, in canonical order. Pure: nothing is read.
 *
 * An id follows from what is edited alone. A direction is named by its vector's sha256, never by
 * its file, so that moving the file does not rename what was measured.
 */

import { joined } from "../conditions/given.ts";
import { BASELINE_ID, canonical, conditionId } from "../conditions/ids.ts";
import { checkLayer, checkSites, overlaps } from "../conditions/overlaps.ts";
import { listedParts } from "../conditions/parts.ts";
import { configProblem, type RunConfig } from "../config/load.ts";
import { onceAMode, type SingleSpec } from "../config/modes.ts";
import { keyName, type Path, type Problem, refuse } from "../config/problems.ts";
import type { AblationConfig, TargetSpec } from "../config/schema.ts";
import { SparkablateError } from "../errors.ts";
import type { SiteKind, SiteSweep } from "../protocol/catalog.ts";
import type { Condition, Intervention, ModelMap } from "../protocol/messages.ts";
import { edgeOf, placesOf } from "../statistics/racing.ts";
import { countedFromFront } from "./from-the-end.ts";
import { besideGiven } from "./given.ts";
import type { Plan } from "./needs.ts";
import { candidates, type EarlierRun, pairSweep } from "./pairs.ts";
import { sweepEdits } from "./sweeps.ts";

const BASELINE: Condition = { id: BASELINE_ID, interventions: [] };

/** How many null conditions measure the numeric floor below float32. */
const NULL_CONDITIONS = 8;

/** What the planner must know of a direction file. */
export interface DirectionFacts {
  /** Of the vector's bytes, as `put` sends them. */
  readonly sha256: string;
  /** The layer recorded in the file: where `add` acts unless told otherwise. */
  readonly layer: number | null;
}

/** One condition, and where the config asks for it. */
interface Wish {
  readonly path: Path;
  readonly interventions: readonly Intervention[];
}

/**
 * @param directions by the absolute path that the config names.
 * @param earlier what `ablation.from` names; null where it names none.
 * @param stored ids of the conditions that the run has already.
 * @throws SparkablateError with one line a problem: config_invalid (out of range, nothing to
 *   measure), site_unsupported, conditions_overlap; config_invalid where they are mixed.
 */
export function planConditions(
  written: RunConfig,
  map: ModelMap,
  directions: ReadonlyMap<string, DirectionFacts> = new Map(),
  earlier: EarlierRun | null = null,
  stored: ReadonlySet<string> | null = null,
): Plan {
  const notices: string[] = [];
  const problems: Problem[] = [];
  const complain = (code: Problem["code"], path: Path, message: string): void => {
    problems.push(configProblem(written, code, path, message));
  };
  const config = countedFromFront(written, map.layers.length, (path, message) =>
    complain("config_invalid", path, message),
  );
  refuse(problems);

  const { seq_len, task, calibration } = config.eval;
  // The items of a task have lengths of their own.
  const cutsText = task === null || calibration !== null;
  if (cutsText && map.max_positions !== null && seq_len > map.max_positions) {
    complain(
      "config_invalid",
      ["eval", "seq_len"],
      `${seq_len} does not fit; allowed: up to ${map.max_positions} (the model's positions)`,
    );
  }
  const before = problems.length;
  const asked = givenEdits(config, map, directions, complain);
  const given = problems.length > before ? [] : asked;
  if (given.length > 0)
    notices.push(`given ${conditionId(given)}: it acts in every condition, and in the baseline`);
  const swept = sweepWishes(config, map, earlier, given, notices, complain);
  const listed = measuresTargets(config, swept, stored, notices)
    ? targetWishes(config, map, directions, complain)
    : [];
  if (problems.length === 0)
    for (const { path, interventions } of listed) {
      const { refusal } = joined(given, interventions, map);
      if (refusal !== null) complain("conditions_overlap", path, refusal);
    }
  const conditions = merge([...swept, ...listed], notices);
  if (problems.length === 0) checkCount(config, conditions.length - 1, complain);
  refuse(problems);
  return { ...(given.length > 0 && { given }), conditions, notices };
}

/** What all is measured on top of, canonical. */
function givenEdits(
  config: RunConfig,
  map: ModelMap,
  directions: ReadonlyMap<string, DirectionFacts>,
  complain: Complain,
): Intervention[] {
  const entries = (config.ablation.given ?? []).map((specs, index) =>
    editsOf(onceAMode(specs)[0] ?? [], ["ablation", "given", index], map, directions, complain),
  );
  const all = entries.flat();
  for (const message of overlaps(all, map)) complain("conditions_overlap", ["ablation", "given"], message);
  return canonical(all);
}

/** What a run measures besides: rounding alone, after the first and the middle layer by turns; float32 needs none. */
export function nullConditions(dtype: string, { n_layers }: ModelMap): Condition[] {
  if (dtype === "float32") return [];
  return Array.from({ length: NULL_CONDITIONS }, (_, seed) => ({
    id: `null[${seed}]`,
    interventions: [],
    nudge: { layer: seed % 2 === 0 ? 0 : Math.floor(n_layers / 2), seed },
  }));
}

type Complain = (code: Problem["code"], path: Path, message: string) => void;

function checkCount(config: RunConfig, count: number, complain: Complain): void {
  const { sweep } = config.ablation;
  if (count === 0) {
    complain(
      "config_invalid",
      ["ablation", "sweep"],
      `${sweep} finds nothing to edit in this model: choose another sweep`,
    );
  } else if (config.stop !== null && placesOf(config.stop) >= count) {
    complain(
      "config_invalid",
      ["stop", edgeOf(config.stop)],
      `${placesOf(config.stop)} does not fit; allowed: fewer than the ${count} conditions`,
    );
  }
}

function sweepWishes(
  { ablation }: RunConfig,
  map: ModelMap,
  earlier: EarlierRun | null,
  given: readonly Intervention[],
  notices: string[],
  complain: Complain,
): Wish[] {
  const { sweep } = ablation;
  if (sweep === "custom") return [];
  if (sweep === "pairs") return pairWishes(ablation, map, earlier, given, notices, complain);
  const wishes = siteWishes(sweep, ablation, map, notices, complain);
  return besideGiven(sweep, wishes, given, map, notices);
}

/** Beside a sweep they are measured only where a run of 0.1.0, which measured both, goes on. */
function measuresTargets(
  { ablation: { sweep, targets, directions } }: RunConfig,
  swept: readonly Wish[],
  stored: ReadonlySet<string> | null,
  notices: string[],
): boolean {
  if (sweep === "custom") return true;
  const named = Object.entries({ targets: targets.length, directions: directions.length })
    .filter(([, count]) => count > 0)
    .map(([key, count]) => `ablation.${key} (${count === 1 ? "1 entry" : `${count} entries`})`);
  if (named.length === 0) return false;
  const own = new Set(swept.map(({ interventions }) => conditionId(canonical(interventions))));
  const besides = stored !== null && [...stored].some((id) => !own.has(id));
  notices.push(
    besides
      ? `${named.join(" and ")}: measured besides the sweep of ${sweep}, as this run began`
      : `${named.join(" and ")}: not measured, since ablation.sweep is ${sweep}; set it to custom to measure them`,
  );
  return besides;
}

/** The earlier run's largest effects alone, then every two together. */
function pairWishes(
  { from, top, layers }: AblationConfig,
  map: ModelMap,
  earlier: EarlierRun | null,
  given: readonly Intervention[],
  notices: string[],
  complain: Complain,
): Wish[] {
  const path = ["ablation", "from"];
  const named = (earlier === null ? [] : candidates(earlier, layers)).map((one) => ({
    path,
    interventions: [one],
  }));
  const here = given.length === 0 ? undefined : conditionId(given);
  if (earlier !== null && earlier.given !== here)
    notices.push(
      `${from} was measured on top of ${earlier.given ?? "nothing"}, this run is on top of ${here ?? "nothing"}: its largest effects need not be this run's`,
    );
  const found = besideGiven("pairs", named, given, map, notices).flatMap(
    ({ interventions }) => interventions,
  );
  const directions = earlier?.components.filter(({ kind }) => kind === "direction").length ?? 0;
  if (directions > 0)
    notices.push(
      `sweep: pairs leaves out ${directions === 1 ? "1 direction" : `${directions} directions`} of ${from}: a run does not keep the file of a direction`,
    );
  const chosen = found.slice(0, top ?? 0);
  if (found.length < (top ?? 2)) {
    complain(
      "config_invalid",
      ["ablation", "top"],
      `${top} does not fit; allowed: from 2 to ${found.length} (heads, groups or blocks that ${from} measured alone)`,
    );
    return [];
  }
  for (const one of chosen) checkSites(one, map, (code, message) => complain(code, path, message));
  const { conditions, notices: more } = pairSweep(chosen, map);
  notices.push(...more);
  const wishes = conditions.map((interventions) => ({ path, interventions }));
  return besideGiven("pairs", wishes, given, map, notices);
}

function siteWishes(
  sweep: SiteSweep,
  ablation: AblationConfig,
  map: ModelMap,
  notices: string[],
  complain: Complain,
): Wish[] {
  const { layers, mode } = ablation;
  if (sweep === "layers" && typeof mode !== "string")
    notices.push(
      `ablation.mode lists ${mode.join(", ")}: of a list, a layer is skipped, once; for its mean write mode: mean`,
    );
  const path = ["ablation", "layers"];
  const lacking: number[] = [];
  const wishes = [...(layers === "all" ? map.layers.keys() : layers)].flatMap((layer): Wish[] => {
    if (!checkLayer(layer, map, "layers", (code, message) => complain(code, path, message))) return [];
    const edits = sweepEdits(sweep, ablation, map, layer);
    if (edits.length === 0) lacking.push(layer);
    return edits.map((edit) => ({ path, interventions: [edit] }));
  });
  if (lacking.length > 0) {
    const what = `sweep: ${sweep} has nothing to edit in layer ${lacking.join(", ")}`;
    if (layers === "all") notices.push(`${what}: the model has no such site there`);
    else complain("site_unsupported", path, `${what}: name layers that have the site`);
  }
  return wishes;
}

function targetWishes(
  config: RunConfig,
  map: ModelMap,
  directions: ReadonlyMap<string, DirectionFacts>,
  complain: Complain,
): Wish[] {
  const { ablation } = config;
  const targets = ablation.targets.flatMap((entry, index) =>
    onceAMode(entry).map((specs) => ({ specs, path: ["ablation", "targets", index] })),
  );
  const short = ablation.directions.map((spec, index) => ({
    specs: [{ kind: "direction" as const, ...spec }],
    path: ["ablation", "directions", index],
  }));
  return [...targets, ...short].map(({ specs, path }) => {
    const interventions = editsOf(specs, path, map, directions, complain);
    for (const message of overlaps(interventions, map)) complain("conditions_overlap", path, message);
    return { path, interventions };
  });
}

/** The edits of an entry on this model. */
function editsOf(
  specs: readonly SingleSpec<TargetSpec>[],
  path: Path,
  map: ModelMap,
  directions: ReadonlyMap<string, DirectionFacts>,
  complain: Complain,
): Intervention[] {
  return specs.flatMap((spec, index) => {
    const specPath = specs.length > 1 ? [...path, index] : path;
    const intervention = spec.kind === "direction" ? direct(spec, specPath, map, directions, complain) : spec;
    if (intervention === undefined) return [];
    checkSites(intervention, map, (code, message, key) => complain(code, [...specPath, key], message));
    return [intervention];
  });
}

/** A direction of the config → its intervention on this model. */
function direct(
  spec: SingleSpec<Extract<TargetSpec, { kind: "direction" }>>,
  path: Path,
  map: ModelMap,
  directions: ReadonlyMap<string, DirectionFacts>,
  complain: Complain,
): Intervention | undefined {
  const { path: file, layers: listed, ...rest } = spec;
  const facts = directions.get(file);
  if (facts === undefined) {
    complain("input_missing", [...path, "path"], `${file} was not read: give a direction file`);
    return undefined;
  }
  const layers = listed ?? (facts.layer === null ? null : [facts.layer]);
  if (layers === null) {
    complain(
      "config_invalid",
      [...path, "layers"],
      `is missing, and ${file} records no layer; allowed: a list of layer numbers`,
    );
    return undefined;
  }
  // At the stream "all" is every layer; at the writes it adds the embedding, so a full list is less.
  const isAll = layers === "all" || (rest.at === "stream" && layers.length === map.layers.length);
  return { ...rest, layers: isAll ? "all" : layers, sha256: facts.sha256 };
}

/** Wishes → conditions behind the baseline; one that is asked for twice is measured once, with a notice. */
function merge(wishes: readonly Wish[], notices: string[]): Condition[] {
  const conditions = new Map<string, { condition: Condition; path: Path }>();
  for (const { path, interventions: written } of wishes) {
    const interventions = canonical(written);
    if (interventions.length === 0) continue; // its problems are told already
    const condition: Condition = { id: conditionId(interventions), interventions };
    const before = conditions.get(condition.id);
    if (before === undefined) {
      conditions.set(condition.id, { condition, path });
      continue;
    }
    if (JSON.stringify(before.condition.interventions) !== JSON.stringify(interventions)) {
      throw new SparkablateError("internal", `two different conditions have the id ${condition.id}`);
    }
    notices.push(
      `${keyName(path)} asks for ${condition.id} again (first: ${keyName(before.path)}); it is measured once`,
    );
  }
  return [BASELINE, ...[...conditions.values()].map(({ condition }) => condition)];
}

/** What a result row says of its condition's edit. */
export interface ConditionColumns {
  /** "baseline", "joint" (several interventions), or the one intervention's kind. */
  readonly kind: SiteKind | "baseline" | "joint";
  /** null where there is none, or more than one. */
  readonly layer: number | null;
  /** Numbers of the parts that are edited: heads, of a `kv_group` its groups. */
  readonly heads: readonly number[] | null;
  /** zero, mean, skip; a direction's op. */
  readonly mode: string | null;
}

export function conditionColumns({ interventions }: Condition): ConditionColumns {
  const [only, ...others] = interventions;
  if (only === undefined) return { kind: "baseline", layer: null, heads: null, mode: null };
  if (others.length > 0) return { kind: "joint", layer: null, heads: null, mode: null };
  if (only.kind !== "direction") {
    return {
      kind: only.kind,
      layer: only.layer,
      heads: listedParts(only),
      mode: only.mode,
    };
  }
  const [layer, ...layers] = only.layers === "all" ? [] : only.layers;
  return {
    kind: "direction",
    layer: layers.length === 0 ? (layer ?? null) : null,
    heads: null,
    mode: only.op,
  };
}
