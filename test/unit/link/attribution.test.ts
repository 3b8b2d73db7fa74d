/** What is asked of a worker's attributions, and what is read of them, over a real socket. */
import { expect, it, onTestFinished } from "vitest";
import type { SparkablateError } from "../../../src/errors.ts";
import { type Attributing, type Attributions, attribute } from "../../../src/link/attribution.ts";
import { Client } from "../../../src/link/client.ts";
import type { Condition } from "../../../src/protocol/messages.ts";
import { type Conversation, listen } from "../../fixtures/router.ts";

async function asked(
  what: Attributing,
  answer: (conversation: Conversation) => Promise<void>,
): Promise<Attributions> {
  const client = new Client(await listen(answer), new Promise<SparkablateError>(() => undefined));
  onTestFinished(() => client.close());
  await client.hello("a run");
  return await attribute(client, what);
}

const floats = (...values: number[]): Uint8Array => new Uint8Array(Float64Array.from(values).buffer);
const blocks = [Int32Array.of(1, 2, 3), Int32Array.of(4, 5, 6)];
const skip = (layer: number): Condition => ({
  id: `L${layer}.layer.skip`,
  interventions: [{ kind: "layer", layer, mode: "skip" }],
});
const NEURONS = { kind: "neuron", mode: "zero", positions: "all" } as const;

it("sends the blocks before their donors, and gives each condition its row and each layer its sums", async () => {
  const seen: unknown[] = [];
  const found = await asked(
    {
      blocks,
      donors: { resample: [Int32Array.of(7, 7, 7), Int32Array.of(8, 8, 8)] },
      given: skip(2).interventions,
      conditions: [skip(0), skip(1)],
      sites: [NEURONS],
    },
    async ({ request, payload, send, reply }) => {
      seen.push(request, [...new Int32Array(new Uint8Array(payload).buffer)]);
      const { id } = request;
      await send({ type: "attribution", id, site: 0, layer: 0, parts: 2 }, floats(0.5, -1));
      await send({ type: "attribution", id, site: 0, layer: 3, parts: 1 }, floats(Number.NaN));
      await reply({ conditions: 2, seconds: 0.5 }, floats(1, 2, 3, 4));
    },
  );
  expect(seen).toEqual([
    {
      type: "attribute",
      id: 1,
      session: "a session",
      seq_len: 3,
      blocks: 2,
      answers: null,
      donors: ["resample"],
      given: skip(2).interventions,
      conditions: [skip(0), skip(1)],
      sites: [NEURONS],
      metric: "nll",
      means_sha256: null,
    },
    [1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 8, 8],
  ]);
  expect(found.conditions.map((row) => [...row])).toEqual([
    [1, 2],
    [3, 4],
  ]);
  expect(found.sites).toEqual([
    new Map([
      [0, Float64Array.of(0.5, -1)],
      [3, Float64Array.of(Number.NaN)],
    ]),
  ]);
});

it.each([
  ["a reply that is too short", floats(1), null],
  ["sums that are too short", floats(1, 2), { site: 0, layer: 0, parts: 2 }],
  ["a site that was not asked for", floats(1, 2), { site: 1, layer: 0, parts: 1 }],
])("refuses %s", async (_, payload, event) => {
  const found = asked(
    { blocks, conditions: [skip(0)], sites: [NEURONS] },
    async ({ request: { id }, send, reply }) => {
      if (event !== null) await send({ type: "attribution", id, ...event }, floats(1));
      await reply({ conditions: 1, seconds: 0.5 }, payload);
    },
  );
  await expect(found).rejects.toThrow(expect.objectContaining({ code: "invalid_message" }));
});
