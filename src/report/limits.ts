/** What a page and its pictures hold at most, so that they open; whoever leaves something out says what. */

import { integer } from "./numbers.ts";

/** Rows of a page's table: the first of the ranking. */
export const MOST_ROWS = 10_000;
/** Cells of all heatmaps of one kind together, and labels along one side. The largest models have 130 × 130. */
export const MOST_CELLS = 16_500;
export const MOST_SIDE = 400;
export const MOST_BARS = 400;
export const MOST_POINTS = 20_000;

/** The labels with the largest effects, ascending; all of them where they are few enough. */
export function strongest(
  effects: Iterable<readonly [label: number, effect: number]>,
  most: number,
): { readonly kept: readonly number[]; readonly total: number } {
  const sizes = new Map<number, number>();
  for (const [label, effect] of effects) sizes.set(label, Math.max(sizes.get(label) ?? 0, Math.abs(effect)));
  const ranked = [...sizes].sort(([, a], [, b]) => b - a).slice(0, most);
  return { kept: ranked.map(([label]) => label).sort((a, b) => a - b), total: sizes.size };
}

/** Nothing where all are shown. */
export const leftOut = (
  shown: number,
  total: number,
  things: string,
  by = "with the largest effects",
): string[] =>
  shown >= total
    ? []
    : [
        `Shown: the ${integer(shown)} of ${integer(total)} ${things} ${by}; 'sparkablate report --format csv' prints all of them.`,
      ];
