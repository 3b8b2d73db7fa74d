/** How far a value may be trusted, and the sign for it. */
import { isDoubted } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";

/** Each has its own look. */
export type Mark = "distinguishable" | "doubted" | "unmarked" | "untested" | "failed";

/** What `drawing` puts on a heatmap's cells. */
const CELL_SIGNS: Readonly<Record<Mark, string>> = {
  unmarked: "• not distinguishable from 0",
  doubted: "○ q ≤ 0.05, but flagged",
  failed: "× failed",
  untested: "no sign: not tested (stop:)",
  distinguishable: "no sign: distinguishable from 0",
};

export function signs(marks: readonly Mark[]): string {
  const present = new Set(marks);
  return Object.entries(CELL_SIGNS)
    .flatMap(([mark, sign]) => (present.has(mark as Mark) ? [sign] : []))
    .join("    ");
}

export function markOfTest(tested: Pick<Row, "distinguishable" | "q">): Mark {
  if (tested.distinguishable === null) return "untested";
  if (tested.distinguishable) return "distinguishable";
  return isDoubted(tested) ? "doubted" : "unmarked";
}
