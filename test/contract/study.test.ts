/** What the controller makes of sums and of token ids, frozen: Python's sweep() reads the same files. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { buildRows } from "../../src/results/tabulate.ts";
import { chooseBlocks, shuffled } from "../../src/samples/blocks.ts";
import { hexFloat, ofHex, sweepOf } from "./sweeps.ts";

const file = (name: string) => JSON.parse(readFileSync(new URL(name, import.meta.url), "utf8"));

interface FrozenTable {
  readonly name: string;
  readonly tokens: number;
  readonly sums: (string | null)[][];
  readonly rows: Record<string, unknown>[];
}

describe("statistics.json", () => {
  test.each(file("statistics.json").tables as FrozenTable[])("$name", ({ tokens, sums, rows }) => {
    const [baseline = [], ...conditions] = sums.map((row) => row.map(ofHex));
    const sweep = sweepOf({ tokens, baseline: baseline as number[], rows: conditions });
    const found = buildRows(sweep.baseline, sweep.conditions, { correction: "bh", floor: null });
    expect(
      found.map((row) =>
        Object.fromEntries(
          Object.keys(rows[0] ?? {}).map((name) => {
            const value = row[name as keyof typeof row];
            if (name === "ci95") return [name, row.ci95?.map(hexFloat) ?? null];
            return [name, typeof value === "number" ? hexFloat(value) : value];
          }),
        ),
      ),
    ).toEqual(rows);
  });
});

describe("sampling.json", () => {
  const { orders, choices } = file("sampling.json");

  test("orders", () => {
    for (const { total, seed, order } of orders) expect(shuffled(total, seed)).toEqual(order);
  });

  test("choices", () => {
    for (const choice of choices) {
      const ids = Int32Array.from({ length: choice.tokens }, (_, at) => ((at * at) % 7919) + (at % 100));
      const found = chooseBlocks({
        ...choice,
        evaluation: { name: "text.txt", ids },
        calibration: null,
        max_batches: choice.wanted === null ? null : choice.wanted / choice.batch_size,
        calibration_batches: choice.calibration / choice.batch_size,
      });
      expect(found.evaluation.map(({ index }) => index)).toEqual(choice.evaluation);
      expect(found.calibration.map(({ index }) => index)).toEqual(choice.calibrated);
      expect(found.notices).toEqual(choice.notices);
    }
  });
});
