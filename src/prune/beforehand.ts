/** What is refused before anything is measured, and what the texts give. */
import { interventionId } from "../conditions/ids.ts";
import { SparkablateError } from "../errors.ts";
import { notify } from "../events.ts";
import { foreseen, type Ground, ofText } from "./outcome.ts";
import type { Shares } from "./overlap.ts";

/** @throws SparkablateError usage for a target that the model is within already. */
export async function requireLarger({ machine, settings: { target }, config }: Ground): Promise<void> {
  if (!("target_params" in target)) return;
  const { model } = config({});
  const { parameters } = (await machine.inspect(model)).model_map;
  if (parameters > target.target_params) return;
  throw new SparkablateError(
    "usage",
    `${model.name} has ${parameters.toLocaleString("en-US")} parameters, no more than the ${target.target_params.toLocaleString("en-US")} of target_params: nothing is to be removed`,
  );
}

/**
 * Refuses a search whose sets no checkpoint could lack. A size that the stock class refuses is passed over later.
 * @throws SparkablateError bake_refused, site_unsupported with the reason.
 */
export async function requireOffer(ground: Ground): Promise<void> {
  const { machine, row, settings, config, on } = ground;
  const { layers } = await machine.map(config({}), on);
  let reason: string | null = null;
  for (const edits of row.examples(layers, settings.compensate === "mean" ? "mean" : "zero")) {
    const { refusal } = await foreseen(ground, edits.map(interventionId));
    if (refusal === null) return;
    reason ??= refusal;
  }
  throw new SparkablateError("bake_refused", reason ?? `no ${row.many} can be removed`);
}

/**
 * Which layers may become a constant.
 * @throws SparkablateError bake_refused with the reason where none may.
 */
export async function constantLayers(ground: Ground): Promise<number[]> {
  const { n_layers } = (await ground.machine.inspect(ground.config({}).model)).model_map;
  const offered: number[] = [];
  const reasons: string[] = [];
  for (let layer = 0; layer < n_layers; layer++) {
    const { refusal } = await foreseen(ground, [`L${layer}.layer.mean`]);
    if (refusal === null) offered.push(layer);
    else reasons.push(refusal);
  }
  if (offered.length < 2)
    throw new SparkablateError("bake_refused", ["compensate: mean has no layers to search:", ...reasons]);
  if (reasons.length > 0) notify(ground.on, ["left out, since their constants cannot be baked:", ...reasons]);
  return offered;
}

/**
 * The blocks that each text gives.
 * @param holdout how many sets of held-out blocks were used up before.
 * @throws SparkablateError text_too_short with the numbers.
 */
export async function sharesOf({ machine, settings, on }: Ground, holdout: number): Promise<Shares[]> {
  const { texts, blocks, held_out_blocks, seq_len } = settings;
  const from = blocks + holdout * held_out_blocks;
  const seen = holdout === 0 ? "" : `, ${holdout * held_out_blocks} were seen before`;
  const shares: Shares[] = [];
  for (const [index, text] of texts.entries()) {
    const config = ofText(settings, index, holdout, { sweep: "layers" });
    const whole = { ...config, eval: { ...config.eval, skip_batches: 0, max_batches: null } };
    const all = await machine.blocks(whole, on);
    if (all.length < from + held_out_blocks)
      throw new SparkablateError(
        "text_too_short",
        `${text} has ${all.length} blocks of ${seq_len} tokens, and the search takes ${from + held_out_blocks}: ${blocks} choose, ${held_out_blocks} test${seen}`,
        { help: "Name a longer text, or lower --blocks, --held-out or --seq-len." },
      );
    const heldOut = all.slice(from, from + held_out_blocks);
    shares.push({ text, selection: all.slice(0, blocks), heldOut });
  }
  return shares;
}
