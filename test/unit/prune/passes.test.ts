/** What a search's runs cost, counted by hand. */
import { expect, it } from "vitest";
import { headShare } from "../../../src/plan/cost.ts";
import type { ModelMap } from "../../../src/protocol/messages.ts";
import { passesOf } from "../../../src/prune/passes.ts";
import type { Row } from "../../../src/results/row.ts";

const map = {
  ...{ n_layers: 4, d_model: 8, vocab_size: 16, parameters: 4_000 },
  layers: [],
} as unknown as ModelMap;
const row = (blocks: number, ...layers: number[]): Row =>
  ({
    ...{ condition: layers.join() || "baseline", blocks },
    interventions: layers.map((layer) => ({ kind: "layer", layer, mode: "skip" })),
  }) as unknown as Row;

it("is a whole pass for the baseline, and of a condition the layers from its first one on", () => {
  const head = headShare(map, 4_000);
  expect(head).toBeCloseTo((8 * 16) / 4_000);
  expect(passesOf([row(10)], map)).toBeCloseTo(10);
  expect(passesOf([row(1), row(3, 2)], map)).toBeCloseTo(1 + 3 * (head + (1 - head) / 2));
  expect(passesOf([row(0), row(1, 3, 1)], map)).toBeCloseTo(head + (1 - head) * 0.75);
});
