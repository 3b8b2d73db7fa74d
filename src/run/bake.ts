/** One condition written into the weights: load → plan → calibrate → bake. Nothing is ever sent twice. */

import { joined } from "../conditions/given.ts";
import { conditionId } from "../conditions/ids.ts";
import { requireMeeting } from "../config/features.ts";
import type { RunConfig } from "../config/load.ts";
import { asksFor } from "../config/modes.ts";
import { asWritten } from "../config/problems.ts";
import { requireWidth, unpickled } from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { stages, untilCancelled } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { type DirectionFacts, planConditions } from "../plan/conditions.ts";
import type { Needs } from "../plan/needs.ts";
import type { BakeCard, Condition, ModelMap, Request, Result } from "../protocol/messages.ts";
import type { Block } from "../samples/sample.ts";
import { readDirections, readTexts } from "./inputs.ts";
import { type Asked, calibrated, prepare } from "./prepare.ts";
import { chooseTexts } from "./texts.ts";

/** In which dtype a checkpoint is written. */
export type BakeDtype = "auto" | "float32" | "source";

/** Where a baked checkpoint goes, and in which form. */
export interface BakeOptions {
  /** Absolute path of the directory to make. */
  readonly out: string;
  /**
   * Of the result. `source` keeps the source's; auto, the default, does so where the edit is exact in it (zero, skip, pruned
   * layers), and writes float32 where one is computed (a direction, a mean).
   */
  readonly dtype?: BakeDtype | undefined;
  /** Deletes skipped layers instead of making them the identity. */
  readonly prune_layers?: boolean | undefined;
  /** Removes zeroed key/value groups, with their query heads: as many in every layer. */
  readonly prune_kv_groups?: boolean | undefined;
  /** Removes zeroed neurons: as many in every layer. */
  readonly prune_neurons?: boolean | undefined;
  /** Replaces a directory that an earlier bake made. */
  readonly force?: boolean | undefined;
  /** Whether source and result are timed beside each other: `timing` of what is given back. */
  readonly timed?: boolean | undefined;
  /** A section "before and after" of the model card. */
  readonly card?: BakeCard | undefined;
  /** Of no effect any more: a config's entries are always applied together, as one condition. */
  readonly joint?: boolean | undefined;
  /** Told every stage and notice as it comes. */
  readonly on?: OnEvent | undefined;
  /** Aborting ends the bake with `interrupted` and leaves nothing behind. */
  readonly signal?: AbortSignal | undefined;
  /** Told the condition's id before anything is written: once it is known to bake or, of a discovered architecture, once the model is loaded. */
  readonly onCondition?: ((id: string) => void) | undefined;
}

/** What a bake would write. */
export interface Foreseen extends Result<"check_bake"> {
  /** Id of what is baked. */
  readonly condition: string;
}

/** What of a config's texts a bake uses. */
const MEANS: Needs = { means: true, donors: [] };

/** What was written, and what its certificate says. */
export interface Baked extends Result<"bake"> {}

/**
 * @throws SparkablateError as planConditions; bake_refused where there is no exact weight equivalent; usage for a
 *   target that exists; disk_full; certificate_failed.
 */
export async function bakeCondition(
  client: Client,
  written: RunConfig,
  {
    out,
    dtype = "auto",
    prune_layers = false,
    prune_kv_groups = false,
    prune_neurons = false,
    force = false,
    timed = false,
    card,
    ...rest
  }: BakeOptions,
): Promise<Baked> {
  const { on = () => undefined, onCondition, signal } = rest;
  let config = jointly(written, dtype);
  const { model } = config;
  if (config.ablation.given !== undefined)
    notify(on, ["baked together with what is given: the weights hold the edits of ablation.given too"]);
  const place = { out, dtype, prune_layers, prune_kv_groups, prune_neurons, force };
  const directions = await unpickled(readDirections(config), client);
  const form = await foreseen(client, config, directions, place);
  if (form !== null) {
    onCondition?.(form.condition);
    config = { ...config, model: { ...model, dtype: form.dtype } };
    if (dtype === "auto")
      notify(on, [
        `dtype auto: ${form.keeps_source ? `the source's (${form.dtype})` : "float32"}, since ${form.why}`,
      ]);
  }
  const inputs = asksFor(config.ablation, "mean") ? readTexts(config) : null;
  const asked: Asked<{ calibration: Block[] }> = {
    config,
    directions,
    mayOffload: true,
    plan(loaded) {
      notify(on, loaded.notices);
      // The self-test may have refused a site.
      const condition = onlyCondition(config, loaded.model_map, directions);
      if (form === null) onCondition?.(condition.id);
      return { conditions: [condition], notices: [] };
    },
    async choose(loaded) {
      if (inputs === null) return { calibration: [] };
      const { calibration, notices } = await chooseTexts(client, config, inputs, loaded, MEANS, on);
      notify(on, notices);
      return { calibration };
    },
  };
  const prepared = await prepare(client, asked, on);
  const means = await calibrated(client, prepared, config.eval, on);
  const [condition] = prepared.plan.conditions as [Condition];
  const bake = { condition, ...place, means_sha256: means?.sha256 ?? null, timed, card: card ?? null };
  return (await untilCancelled(client, client.start("bake", bake, { onEvent: stages(on) }), signal)).result;
}

/**
 * What a bake of the config's one condition would write; null where only the loaded model shows where its sites are.
 * @throws SparkablateError as `bakeCondition`, as far as the configuration alone can tell.
 */
export async function foreseeBake(
  client: Client,
  written: RunConfig,
  { out, dtype = "auto", ...options }: BakeOptions,
): Promise<Foreseen | null> {
  const { prune_layers = false, prune_kv_groups = false, prune_neurons = false, force = false } = options;
  const config = jointly(written, dtype);
  const directions = await unpickled(readDirections(config), client);
  const place = { out, dtype, prune_layers, prune_kv_groups, prune_neurons, force };
  return await foreseen(client, config, directions, place);
}

async function foreseen(
  client: Client,
  config: RunConfig,
  directions: Awaited<ReturnType<typeof unpickled>>,
  place: Omit<Request<"check_bake">, "type" | "id" | "session" | "model" | "condition">,
): Promise<Foreseen | null> {
  const { model } = config;
  const model_map = await described(client, model);
  if (model_map === null) return null;
  requireWidth(directions, model_map);
  const condition = onlyCondition(config, model_map, directions);
  const { result } = await client.call("check_bake", { model, condition, ...place });
  return { ...result, condition: condition.id };
}

/** The model's map from its configuration alone; null where only the loaded model shows where its sites are. */
async function described(client: Client, model: RunConfig["model"]): Promise<ModelMap | null> {
  try {
    return (await client.call("inspect", { model, meta: true })).result.model_map;
  } catch (error) {
    if (error instanceof SparkablateError && error.code === "architecture_unsupported") return null;
    throw error;
  }
}

/** All entries as one; a sweep has no entries. The live side runs in the result's dtype. */
export function jointly(config: RunConfig, dtype: BakeDtype): RunConfig {
  requireMeeting(config, "bake");
  const { targets, directions } = config.ablation;
  const direct = directions.map((spec) => asWritten(spec, { kind: "direction" as const, ...spec }));
  const specs = asWritten(config.ablation, [...targets.flat(), ...direct], ["targets"]);
  return {
    ...config,
    model: dtype === "float32" ? { ...config.model, dtype } : config.model,
    ablation: { ...config.ablation, targets: [specs], directions: [] },
  };
}

function onlyCondition(
  config: RunConfig,
  map: ModelMap,
  directions: ReadonlyMap<string, DirectionFacts>,
): Condition {
  const { conditions, given = [] } = planConditions(config, map, directions);
  const [, condition] = conditions;
  if (condition === undefined) {
    throw new SparkablateError("internal", `${config.ablation.targets.length} entries gave no condition`);
  }
  const { interventions } = joined(given, condition.interventions, map);
  if (interventions === null) throw new SparkablateError("internal", `${condition.id} was not refused`);
  return given.length === 0
    ? condition
    : { id: conditionId(interventions), interventions: [...interventions] };
}
