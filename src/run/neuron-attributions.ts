/** First-order effects of every neuron, on what a config is measured on. */
import type { RunConfig } from "../config/load.ts";
import type { OnEvent } from "../events.ts";
import { attribute } from "../link/attribution.ts";
import { loadModel } from "../link/calls.ts";
import type { Client } from "../link/client.ts";
import { batches } from "../plan/slices.ts";
import type { WholeSite } from "../protocol/messages.ts";
import { evaluationBlocks } from "./evaluation-blocks.ts";
import { shapeToLoad } from "./prepare.ts";

const NEURONS: WholeSite = { kind: "neuron", mode: "zero", positions: "all" };

/**
 * @returns of each layer, nats a token  # each [neurons]
 * @throws SparkablateError as `attribute`; interrupted.
 */
export async function neuronAttributions(
  client: Client,
  config: RunConfig,
  on: OnEvent,
  signal: AbortSignal | undefined,
): Promise<Float64Array[]> {
  const blocks = await evaluationBlocks(client, config, on);
  const { batch_size, seq_len } = config.eval;
  const { model_map } = await loadModel(client, config.model, shapeToLoad(config), on);
  const sums = model_map.layers.map(({ n_neurons }) => new Float64Array(n_neurons));
  for (const batch of batches(blocks.length, batch_size)) {
    const asked = {
      blocks: batch.map((index) => (blocks[index] as (typeof blocks)[0]).ids),
      sites: [NEURONS],
    };
    const [found] = (await attribute(client, asked, signal)).sites;
    for (const [layer, values] of found ?? []) {
      const sum = sums[layer] as Float64Array;
      for (const [neuron, value] of values.entries()) sum[neuron] = (sum[neuron] as number) + value;
    }
  }
  return sums.map((layer) => layer.map((sum) => sum / (blocks.length * (seq_len - 1))));
}
