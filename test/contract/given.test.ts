import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { joined } from "../../src/conditions/given.ts";
import { conditionId } from "../../src/conditions/ids.ts";
import { overlaps } from "../../src/conditions/overlaps.ts";
import type { Intervention, ModelMap } from "../../src/protocol/messages.ts";

interface Case {
  readonly given: readonly Intervention[];
  readonly condition: readonly Intervention[];
  readonly id?: string;
  readonly refusal?: string;
}

const { layers, cases } = JSON.parse(readFileSync(new URL("given.json", import.meta.url), "utf8")) as {
  readonly layers: ModelMap["layers"];
  readonly cases: readonly Case[];
};
const map = { layers } as ModelMap;

describe("given.json", () => {
  it.each(cases.map((one) => [one.id ?? one.refusal, one] as const))(
    "%s",
    (_, { given, condition, ...expected }) => {
      for (const order of [given, given.toReversed()]) {
        const { interventions, refusal } = joined(order, condition, map);
        expect(interventions === null ? { refusal } : { id: conditionId(interventions) }).toEqual(expected);
        // What may be measured may be measured as one condition.
        if (interventions !== null) expect(overlaps(interventions, map)).toEqual([]);
      }
    },
  );
});

it("what is given to nothing is what is given, and nothing given changes nothing", () => {
  for (const { given, condition } of cases) {
    expect(joined([], condition, map).interventions).toEqual(joined(condition, [], map).interventions);
    expect(joined(given, [], map).refusal).toBeNull();
  }
});
