/** Pure: one site's effects in two runs, block by block. */
import type { Row } from "../../results/row.ts";
import { type Estimate, estimate } from "../../statistics/effects.ts";
import type { BlockRun, BlockSums } from "../../store/block-run.ts";

/** Block → Δ NLL a predicted token. */
type Effects = ReadonlyMap<number, number>;

export interface SiteBlocks {
  /** Δ NLL of the second run − Δ NLL of the first, on the blocks both have; null where there is none. */
  readonly difference: Estimate | null;
  /** Of each run, the mean effect on every other block and on the rest; null below two blocks each. */
  readonly halves: readonly [Halves | null, Halves | null];
}

type Halves = readonly [even: number, odd: number];

/** @param shared ordinal in the first run → ordinal in the second, of the blocks with the same tokens. */
export function siteComparer(
  runs: readonly [BlockRun, BlockRun],
  shared: ReadonlyMap<number, number>,
): (rows: readonly [Row, Row]) => SiteBlocks {
  const [effectsOfA, effectsOfB] = [effectsOf(runs[0]), effectsOf(runs[1])];
  return (rows) => {
    const [a, b] = [effectsOfA(rows[0]), effectsOfB(rows[1])];
    const values: number[] = [];
    for (const [ordinal, effect] of a) {
      const other = shared.get(ordinal);
      const there = other === undefined ? undefined : b.get(other);
      if (there !== undefined) values.push(there - effect);
    }
    const levels = [...runs.map((run) => run.rows[0]?.nll ?? 0), ...rows.map(({ nll }) => nll ?? 0)];
    return {
      // A spread within the arithmetic's own rounding is none.
      difference:
        values.length === 0
          ? null
          : estimate(Float64Array.from(values), 8 * Number.EPSILON * Math.max(...levels)),
      halves: [halvesOf(a), halvesOf(b)],
    };
  };
}

/** Only blocks that the condition and the baseline both have; ascending. */
function effectsOf({ sums, rows, tokens }: BlockRun): (row: Row) => Effects {
  const baseline = new Map(entries(sums.get(rows[0]?.condition ?? "")));
  return ({ condition }) => {
    const effects = new Map<number, number>();
    for (const [block, sum] of entries(sums.get(condition))) {
      const reference = baseline.get(block);
      if (reference !== undefined) effects.set(block, (sum - reference) / tokens);
    }
    return effects;
  };
}

function entries(measured: BlockSums | undefined): [block: number, sum: number][] {
  return measured?.blocks.map((block, index) => [block, measured.nll[index] as number]) ?? [];
}

function halvesOf(effects: Effects): Halves | null {
  const half = (parity: number): number | null => {
    const values = [...effects].flatMap(([block, effect]) => (block % 2 === parity ? [effect] : []));
    return values.length < 2 ? null : values.reduce((sum, value) => sum + value) / values.length;
  };
  const [even, odd] = [half(0), half(1)];
  return even === null || odd === null ? null : [even, odd];
}
