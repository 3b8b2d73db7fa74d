/** Rows of a run as they come about. A slow reader does not hold up the measuring, and one who breaks off ends it. */
import { Readable } from "node:stream";
import { conditionId } from "../conditions/ids.ts";
import type { Condition, Intervention } from "../protocol/messages.ts";
import type { StatisticsSettings } from "../results/facts.ts";
import type { Measurements } from "../results/measurements.ts";
import type { Row } from "../results/row.ts";

export function rowStream(
  conditions: readonly Condition[],
  measurements: Measurements,
  settings: StatisticsSettings,
  given: readonly Intervention[] | undefined,
) {
  const ground = given && { given: conditionId(given) };
  const rows = new Readable({ objectMode: true, read: () => undefined });
  /** Inside a slice the baseline ends last: until then a row would lack the blocks that were just measured. */
  const unpaired = new Set<number>();

  /** The condition's row as it stands; a null condition measures rounding and has none. */
  function rowOf(condition: number): Row | null {
    const isNull = conditions[condition]?.nudge !== undefined;
    return isNull ? null : { ...measurements.row(condition, settings), ...ground };
  }

  /** @param row what `rowOf` gives of the condition, one more batch of which is stored. */
  function add(condition: number, row: Row | null): void {
    if (row === null) return;
    if (!measurements.isPaired(condition)) {
      unpaired.add(condition);
      return;
    }
    rows.push(row);
    if (condition !== 0) return;
    for (const waiting of unpaired) {
      if (!measurements.isPaired(waiting)) continue;
      rows.push(rowOf(waiting));
      unpaired.delete(waiting);
    }
  }

  return { rows, rowOf, add };
}
