/** One condition written into the weights: load → plan → calibrate → bake. Nothing is ever sent twice. */

import type { RunConfig } from "../config/load.ts";
import { asksFor } from "../config/modes.ts";
import {
  directionPaths,
  readDirectionFiles,
  requireWidth,
  sendDirections,
  unpickled,
} from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import { calibrate, loadModel, sendMeans, stages } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { planConditions } from "../plan/conditions.ts";
import { type Means, meanSites } from "../plan/needs.ts";
import type { Condition, LoadedModel, Result } from "../protocol/messages.ts";
import { chooseTexts, readTexts, shapeToLoad, type TextInputs } from "./prepare.ts";

/** Where a baked checkpoint goes, and in which form. */
export interface BakeOptions {
  /** Absolute path of the directory to make. */
  readonly out: string;
  /** Of the result; default float32. `source` keeps the source's. */
  readonly dtype?: "float32" | "source" | undefined;
  /** Deletes skipped layers instead of making them the identity. */
  readonly prune_layers?: boolean | undefined;
  /** Replaces a directory that an earlier bake made. */
  readonly force?: boolean | undefined;
  /** Of no effect any more: a config's entries are always applied together, as one condition. */
  readonly joint?: boolean | undefined;
  /** Told every stage and notice as it comes. */
  readonly on?: OnEvent | undefined;
  /** Aborting ends the bake with `interrupted` and leaves nothing behind. */
  readonly signal?: AbortSignal | undefined;
  /** Told the condition's id once it is known to bake, before anything is loaded or written. */
  readonly onCondition?: ((id: string) => void) | undefined;
}

/** What was written, and what its certificate says. */
export interface Baked extends Result<"bake"> {}

/**
 * @throws SparkablateError as planConditions; bake_refused where there is no exact weight equivalent; usage for a
 *   target that exists; disk_full; certificate_failed.
 */
export async function bakeCondition(
  client: Client,
  written: RunConfig,
  { out, dtype = "float32", prune_layers = false, force = false, ...rest }: BakeOptions,
): Promise<Baked> {
  const { on = () => undefined, onCondition, signal } = rest;
  const together = jointly(written);
  // The live side runs in the result's dtype; the worker loads anew where the source's is another one.
  const model = dtype === "float32" ? { ...together.model, dtype } : together.model;
  const config = { ...together, model };
  const files = readDirectionFiles(directionPaths(config));
  const directions = await unpickled(files, client);
  const { model_map } = (await client.call("inspect", { model, meta: true })).result;
  requireWidth(directions, model_map);
  const foreseen = onlyCondition(config, planConditions(config, model_map, directions).conditions);
  const place = { out, dtype, prune_layers, force };
  await client.call("check_bake", { model, condition: foreseen, ...place });
  onCondition?.(foreseen.id);
  const texts = asksFor(config.ablation, "mean") ? readTexts(config) : null;
  const loaded = await loadModel(client, model, shapeToLoad(config), on, true);
  on({ type: "loaded", model: loaded });
  for (const message of loaded.notices) on({ type: "notice", message });
  // The self-test may have refused a site.
  const condition = onlyCondition(config, planConditions(config, loaded.model_map, directions).conditions);
  await sendDirections(directions.values(), client);
  const means = texts === null ? null : await meansOf(client, config, texts, loaded, condition, on);
  if (means !== null) await sendMeans(client, means);
  const { id, reply } = client.start(
    "bake",
    { condition, ...place, means_sha256: means?.sha256 ?? null },
    { onEvent: stages(on) },
  );
  const cancel = (): void => {
    // The bake's own failure says what became of it.
    client.call("cancel", { target: id }).catch(() => undefined);
  };
  signal?.addEventListener("abort", cancel);
  if (signal?.aborted) cancel();
  try {
    return (await reply).result;
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}

/** All entries as one; a sweep has no entries. */
function jointly(config: RunConfig): RunConfig {
  const { sweep, targets, directions } = config.ablation;
  if (sweep !== "custom") {
    throw new SparkablateError(
      "config_invalid",
      `ablation.sweep: ${sweep} makes many conditions, and a bake has one; allowed: custom`,
    );
  }
  if (targets.flat().some((spec) => "mode" in spec && typeof spec.mode === "object"))
    throw new SparkablateError(
      "config_invalid",
      "a list of modes makes many conditions, and a bake has one: name one mode",
    );
  const specs = [...targets.flat(), ...directions.map((spec) => ({ kind: "direction" as const, ...spec }))];
  return { ...config, ablation: { ...config.ablation, targets: [specs], directions: [] } };
}

function onlyCondition({ ablation }: RunConfig, [, condition]: readonly Condition[]): Condition {
  if (condition === undefined) {
    throw new SparkablateError("internal", `${ablation.targets.length} entries gave no condition`);
  }
  return condition;
}

/** The means that a run with this config uses. */
async function meansOf(
  client: Client,
  config: RunConfig,
  texts: TextInputs,
  loaded: LoadedModel,
  condition: Condition,
  on: OnEvent,
): Promise<Means | null> {
  const { calibration, notices } = await chooseTexts(
    client,
    config,
    texts,
    loaded,
    { means: true, sources: [] },
    on,
  );
  for (const message of notices) on({ type: "notice", message });
  return await calibrate(client, meanSites([condition]), calibration, config.eval, on);
}
