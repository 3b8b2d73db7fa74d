/** SmolLM2-135M's own block differences: 270 heads, each set to zero, measured once. */
import { readFileSync } from "node:fs";
import type { Differences } from "../extract-differences.ts";

const FILE = new URL("../../test/fixtures/smollm2-heads.json", import.meta.url);

/** Multiply-adds a token at 64 tokens a block, as test/bench/operations.py counts them on SmolLM2-135M. */
const LAYERS = 30;
const PROJECTION = 331_776;
const MLP = 2_654_208;
const LAYER = 626_688 + PROJECTION + MLP;
const HEAD = 28_311_552;
const FORWARD = LAYERS * LAYER + HEAD;

export interface Heads {
  readonly ids: readonly string[];
  readonly blocks: number;
  /** Δ NLL, nats per predicted token: a head each, a block each. */
  readonly effects: readonly Float64Array[];
  /** First-order effects, of the same blocks. */
  readonly attributions: readonly Float64Array[];
  /**
   * What a head costs on a block, as a share of a forward pass: its layer's output projection and MLP,
   * the layers above, the model's head. What lies below is the baseline's and computed once for all.
   */
  readonly forwards: readonly number[];
}

export function measuredHeads(): Heads {
  const {
    conditions,
    blocks,
    differences,
    attributions = "",
  } = JSON.parse(readFileSync(FILE, "utf8")) as Differences;
  const byHead = (base64: string): Float64Array[] => {
    const values = new Float32Array(Uint8Array.from(Buffer.from(base64, "base64")).buffer);
    return conditions.map((_, head) =>
      Float64Array.from(values.subarray(head * blocks, (head + 1) * blocks)),
    );
  };
  return {
    ids: conditions,
    blocks,
    effects: byHead(differences),
    attributions: byHead(attributions),
    forwards: conditions.map((id) => {
      const layer = Number(/^L(\d+)\./.exec(id)?.[1]);
      return (PROJECTION + MLP + (LAYERS - 1 - layer) * LAYER + HEAD) / FORWARD;
    }),
  };
}

/** The blocks of one simulated text, the same for all heads, so that heads depend on each other as measured. */
export function onBlocks(effects: readonly Float64Array[], blocks: Int32Array): Float64Array[] {
  return effects.map((values) => Float64Array.from(blocks, (block) => values[block] as number));
}
