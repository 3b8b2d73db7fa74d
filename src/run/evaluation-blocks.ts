/** The blocks that a config is measured on, before anything is. */
import type { RunConfig } from "../config/load.ts";
import type { OnEvent } from "../events.ts";
import { loadModel } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import type { Block } from "../samples/sample.ts";
import { readTexts } from "./inputs.ts";
import { shapeToLoad } from "./prepare.ts";
import { chooseTexts } from "./texts.ts";

/** @param config of a text, without means and donors. @throws SparkablateError as loading and choosing do. */
export async function evaluationBlocks(client: Client, config: RunConfig, on: OnEvent): Promise<Block[]> {
  const loaded = await loadModel(client, config.model, shapeToLoad(config), on);
  const needs = { means: false, donors: [] };
  return (await chooseTexts(client, config, readTexts(config), loaded, needs, on)).evaluation;
}
