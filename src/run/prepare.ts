/**
 * What every command that needs a model begins with: load, plan, choose the texts, send the directions; then the means.
 * Commands differ in their conditions and in their texts alone.
 */
import type { RunConfig } from "../config/load.ts";
import {
  type Direction,
  type DirectionFiles,
  requireWidth,
  sendDirections,
  unpickled,
} from "../directions/file.ts";
import type { OnEvent } from "../events.ts";
import { type BatchShape, calibrate, loadModel, sendMeans } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { edited, type Means, meanSites, type Plan } from "../plan/needs.ts";
import type { Condition, LoadedModel } from "../protocol/messages.ts";
import type { Block } from "../samples/sample.ts";

/** A task's items are as long as they are once the tokenizer is there; until then nothing is asked of the shape. */
const SHORTEST_ROW = 2;

/** For what a model is loaded at first. */
export const shapeToLoad = ({ eval: { task, seq_len, batch_size } }: RunConfig): BatchShape => ({
  batch_size,
  seq_len: task === null ? seq_len : SHORTEST_ROW,
});

/** What conditions are measured on, and what their means are taken over. */
interface Rows {
  readonly calibration: readonly Block[];
  /** How long the rows of a task were found to be. */
  readonly seq_len?: number;
}

/** What a command asks for. */
export interface Asked<Texts extends Rows> {
  readonly config: RunConfig;
  readonly directions: DirectionFiles;
  /** Whether weights that do not fit the device may stay on disk. */
  readonly mayOffload?: boolean;
  /** What is measured on this model, or baked. */
  readonly plan: (loaded: LoadedModel, directions: ReadonlyMap<string, Direction>) => Plan;
  /** @param conditions of the plan, with what is given as one of them. */
  readonly choose: (loaded: LoadedModel, conditions: readonly Condition[]) => Promise<Texts>;
  /** Whether only `choose` finds how long the rows are; the model is then checked for that length too. */
  readonly findsLength?: boolean;
}

/** A worker that has the model and the directions. */
export interface Prepared<Texts> {
  readonly loaded: LoadedModel;
  /** Of one batch, as the worker measures it. */
  readonly shape: BatchShape;
  readonly plan: Plan;
  readonly directions: ReadonlyMap<string, Direction>;
  readonly texts: Texts;
}

/** Nothing is measured, written or calibrated yet. @throws SparkablateError as loading, `plan` and `choose` do. */
export async function prepare<Texts extends Rows>(
  client: Client,
  { config, directions: files, mayOffload, findsLength = false, ...asked }: Asked<Texts>,
  on: OnEvent,
): Promise<Prepared<Texts>> {
  const directions = await unpickled(files, client);
  let shape = shapeToLoad(config);
  const load = () => loadModel(client, config.model, shape, on, mayOffload);
  let loaded = await load();
  if (!findsLength) on({ type: "loaded", model: loaded });
  requireWidth(directions, loaded.model_map);
  const plan = asked.plan(loaded, directions);
  const texts = await asked.choose(loaded, edited(plan));
  if (findsLength && texts.seq_len !== undefined) {
    shape = { ...shape, seq_len: texts.seq_len };
    const { seconds, reused } = loaded;
    const again = await load();
    loaded = { ...again, seconds: seconds + again.seconds, reused };
    on({ type: "loaded", model: loaded });
  }
  await sendDirections(directions.values(), client);
  return { loaded, shape, plan, directions, texts };
}

/** The means that the conditions need: taken by the worker, and known to it; null: they need none. */
export async function calibrated(
  client: Client,
  { plan, texts }: Pick<Prepared<Rows>, "plan" | "texts">,
  shape: BatchShape,
  on: OnEvent,
): Promise<Means | null> {
  const means = await calibrate(client, meanSites(edited(plan)), texts.calibration, shape, on);
  if (means !== null) await sendMeans(client, means);
  return means;
}
