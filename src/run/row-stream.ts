/** Rows of a run as they come about. A slow reader does not hold up the measuring, and one who breaks off ends it. */
import { Readable } from "node:stream";
import type { Condition } from "../protocol/messages.ts";
import type { StatisticsSettings } from "../results/facts.ts";
import type { Measurements } from "../results/measurements.ts";
import type { Row } from "../results/row.ts";

export class RowStream {
  readonly #conditions: readonly Condition[];
  readonly #measurements: Measurements;
  readonly #settings: StatisticsSettings;
  readonly #rows = new Readable({ objectMode: true, read: () => undefined });
  /** Inside a slice the baseline ends last: until then a row would lack the blocks that were just measured. */
  readonly #unpaired = new Set<number>();

  constructor(conditions: readonly Condition[], measurements: Measurements, settings: StatisticsSettings) {
    this.#conditions = conditions;
    this.#measurements = measurements;
    this.#settings = settings;
  }

  /** The condition's row as it stands; a null condition measures rounding and has none. */
  of(condition: number): Row | null {
    const isNull = this.#conditions[condition]?.nudge !== undefined;
    return isNull ? null : this.#measurements.row(condition, this.#settings);
  }

  /** @param row what `of` gives of the condition, one more batch of which is stored. */
  add(condition: number, row: Row | null): void {
    if (row === null) return;
    if (!this.#measurements.isPaired(condition)) {
      this.#unpaired.add(condition);
      return;
    }
    this.#rows.push(row);
    if (condition !== 0) return;
    for (const waiting of this.#unpaired) {
      if (!this.#measurements.isPaired(waiting)) continue;
      this.#rows.push(this.of(waiting));
      this.#unpaired.delete(waiting);
    }
  }

  end(): void {
    this.#rows.push(null);
  }

  fail(error: Error): void {
    this.#rows.destroy(error);
  }

  [Symbol.asyncIterator](): AsyncIterator<Row> {
    return this.#rows[Symbol.asyncIterator]();
  }
}
