/** Rows kept as bytes: they are the rows that went in, and a hundred thousand take a few dozen megabytes. */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, it } from "vitest";
import { surveyOf } from "../../../src/report/survey.ts";
import { PackedRows } from "../../../src/results/packed-rows.ts";
import { rankRows } from "../../../src/results/ranking.ts";
import type { Row } from "../../../src/results/row.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { Tally } from "../../../src/store/checksums.ts";
import { condition, facts, head, measured, pageText, skip, sweep } from "../planted.ts";

const SETTINGS = { correction: "bh", floor: null } as const;
const { baseline, conditions } = sweep(
  [
    { of: head(0, 1), mean: 0.25, sd: 0.2 },
    { of: head(3, 0), mean: -0.125, sd: 0.01 },
    { of: condition("both", ...head(0, 1).interventions, ...skip(2).interventions), mean: 0, sd: 0 },
  ],
  20,
);
const rows = buildRows(
  baseline,
  [...conditions, measured(skip(3), [], { error: { code: "nonfinite_logits", message: "NaN" } })],
  SETTINGS,
  new Map([["both", ["L0.head[1].zero", "L3.head[0].zero"]]]),
);

function packed(list: Iterable<Row>): PackedRows {
  const kept = new PackedRows();
  for (const row of list) kept.push(row);
  return kept;
}

function heldBytes(): number {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

it("rows come out as they went in, to the last bit (0 has no sign in any format), in any order and any number of times", () => {
  const odd = rows.map((row, index): Row => {
    const value = [Number.MIN_VALUE, 2 ** 53 - 1, -(2 ** 40), 1 / 3][index] ?? 0;
    return {
      ...row,
      seconds: value,
      metrics: { [`é${index}`]: { mean: value, se: null, ci95: [value, 1e300] } },
    };
  });
  // More shapes than are remembered, and one that is larger than a chunk.
  const shapes = Array.from({ length: 100 }, (_, index): Row => {
    const metrics = { [`m${index}`]: { mean: index, se: null, ci95: null } };
    return { ...(odd[0] as Row), condition: index === 50 ? "x".repeat(3 << 20) : `c${index}`, metrics };
  });
  const all = [...rows, ...odd, ...shapes];
  const kept = packed(all);
  expect(kept).toHaveLength(all.length);
  expect([...kept.values()]).toStrictEqual(all);
  for (let index = all.length - 1; index >= 0; index--) expect(kept.at(index)).toStrictEqual(all[index]);
  expect(kept.at(all.length)).toBeUndefined();
});

it("a report of them is the report of the list", () => {
  const about = facts({ sweep: "heads", planned_conditions: rows.length - 1 });
  expect(pageText(packed(rows), about)).toBe(pageText(rows, about));
  expect(surveyOf(packed(rows))).toEqual(surveyOf(rows));
  expect(rankRows(packed(rows), 2)).toEqual(rankRows(rows).slice(0, 2));
});

it("a row takes less than 400 bytes", () => {
  const [, first] = rows;
  const count = 60_000;
  const before = heldBytes();
  const kept = packed(
    Array.from({ length: count })
      .values()
      .map((_, index): Row => ({ ...(first as Row), condition: `L${index}` })),
  );
  const each = (heldBytes() - before) / count;
  expect(kept).toHaveLength(count);
  expect(each).toBeGreaterThan(50);
  expect(each).toBeLessThan(400);
});

it("the checksum of a long text leaves no buffer behind", () => {
  const before = heldBytes();
  const tally = new Tally("run");
  tally.add(["x".repeat(8 << 20)]);
  expect(tally.state.rows).toBe(1);
  // The text itself may still be held.
  expect(heldBytes() - before).toBeLessThan(16 << 20);
});
