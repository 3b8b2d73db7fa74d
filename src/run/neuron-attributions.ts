/** First-order effects of every neuron, on what a config is measured on. */
import type { RunConfig } from "../config/load.ts";
import type { OnEvent } from "../events.ts";
import { attribute } from "../link/attribution.ts";
import { calibrate, loadModel, sendMeans } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { batches } from "../plan/slices.ts";
import { readTexts } from "./inputs.ts";
import { shapeToLoad } from "./prepare.ts";
import { chooseTexts } from "./texts.ts";

/**
 * @param mode what stands in a neuron's place; means are of the config's calibration text.
 * @returns of each layer, nats a token  # each [neurons]
 * @throws SparkablateError as `attribute`; interrupted.
 */
export async function neuronAttributions(
  client: Client,
  config: RunConfig,
  mode: "zero" | "mean",
  on: OnEvent,
  signal: AbortSignal | undefined,
): Promise<Float64Array[]> {
  const shape = shapeToLoad(config);
  const { model_map, ...loaded } = await loadModel(client, config.model, shape, on);
  const needs = { means: mode === "mean", donors: [] };
  const texts = await chooseTexts(client, config, readTexts(config), { model_map, ...loaded }, needs, on);
  const sites = model_map.layers.flatMap(({ n_neurons }, layer) =>
    mode === "mean" && n_neurons > 0 ? [{ kind: "neuron" as const, layer, positions: "all" as const }] : [],
  );
  const means = await calibrate(client, sites, texts.calibration, shape, on);
  if (means !== null) await sendMeans(client, means);
  const blocks = texts.evaluation.map(({ ids }) => ids);
  const sums = model_map.layers.map(({ n_neurons }) => new Float64Array(n_neurons));
  for (const batch of batches(blocks.length, shape.batch_size)) {
    const asked = {
      blocks: batch.map((index) => blocks[index] as Int32Array),
      sites: [{ kind: "neuron" as const, mode, positions: "all" as const }],
      ...(means !== null && { meansSha256: means.sha256 }),
    };
    const [found] = (await attribute(client, asked, signal)).sites;
    for (const [layer, values] of found ?? []) {
      const sum = sums[layer] as Float64Array;
      for (const [neuron, value] of values.entries()) sum[neuron] = (sum[neuron] as number) + value;
    }
  }
  return sums.map((layer) => layer.map((sum) => sum / (blocks.length * (shape.seq_len - 1))));
}
