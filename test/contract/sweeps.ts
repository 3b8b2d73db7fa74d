/** A sweep's sums as plain numbers, and floats as hexadecimal text. */
import type { ConditionMeasurements } from "../../src/results/row.ts";

export interface Sweep {
  /** Predicted tokens a block. */
  readonly tokens: number;
  /** One sum a block. */
  readonly baseline: readonly number[];
  /** null: not measured. */
  readonly rows: readonly (readonly (number | null)[])[];
}

export function sweepOf({ tokens, baseline, rows }: Sweep): {
  baseline: ConditionMeasurements;
  conditions: ConditionMeasurements[];
} {
  const measured = (id: string, sums: readonly (number | null)[]): ConditionMeasurements => {
    const blocks = [...sums.keys()].filter((block) => sums[block] !== null);
    return {
      condition: { id, interventions: [] },
      blocks,
      sums: { nll: Float64Array.from(blocks, (block) => sums[block] as number) },
      tokens,
      seconds: 0,
      flags: [],
      error: null,
    };
  };
  return {
    baseline: measured("baseline", baseline),
    conditions: rows.map((row, index) => measured(`c${index}`, row)),
  };
}

/** The eight bytes, big-endian; null and NaN as themselves. */
export function hexFloat(value: number | null): string | null {
  if (value === null) return null;
  if (Number.isNaN(value)) return "nan";
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes.toString("hex");
}

export function ofHex(text: string | null): number | null {
  if (text === null) return null;
  return text === "nan" ? Number.NaN : Buffer.from(text, "hex").readDoubleBE();
}

/** 100,000 conditions on 8 blocks, whose sums are quotients of whole numbers: test/python/study/test_statistics.py. */
export function largeSweep(): Sweep {
  const blocks = [...Array(8).keys()];
  return {
    tokens: 15,
    baseline: blocks.map((block) => 60 + ((block * 104_729) % 1000) / 1000),
    rows: Array.from({ length: 100_000 }, (_, index) =>
      blocks.map(
        (block) =>
          60 +
          ((block * 104_729) % 1000) / 1000 +
          (((index * 7919 + block * 31_337 + index * block * 17) % 1009) - 450 - (index % 100)) / 1009,
      ),
    ),
  };
}
