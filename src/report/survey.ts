/** What all rows of a run say together, as far as a report tells it: gathered in one pass, whoever asks. */

import type { Mode } from "../protocol/catalog.ts";
import type { Rows } from "../results/packed-rows.ts";
import { entriesOf, type SweepStatistics, SweepTotals } from "../results/ranking.ts";
import type { Interaction, Row } from "../results/row.ts";
import { RACE_FLAGS } from "../statistics/racing.ts";
import { modeOf } from "./modes/modes.ts";
import { decimalsFor } from "./numbers.ts";

export interface Survey {
  readonly statistics: SweepStatistics;
  /** That show two digits of the typical standard error. */
  readonly decimals: number;
  /** Modes that sites were edited in. */
  readonly modes: readonly Mode[];
  /** The column `mode`, each value once. */
  readonly edits: readonly Row["mode"][];
  /** Of rows and of their interactions. */
  readonly flags: ReadonlySet<string>;
  /** Conditions of each status. */
  readonly counts: Readonly<Partial<Record<Row["status"], number>>>;
  /** Conditions with an effect, or with the error that they have in its place. */
  readonly rankable: number;
  /** Conditions that a race settled as its top, or bottom. */
  readonly settled: number;
  /** Pairs of a condition and a block. */
  readonly measurements: number;
  /** Marked conditions whose removal lowered the loss: how many, and the ones that did most, the first first. */
  readonly helpful: { readonly count: number; readonly most: readonly HelpfulRow[] };
  readonly interactions: readonly Omit<Interaction, "parts">[];
  /** Columns beside nll of the first row that has any. */
  readonly metrics: readonly string[];
}

type HelpfulRow = Pick<Row, "condition" | "delta_nll">;

/** Helpful removals that are named. */
const NAMED = 5;

const surveys = new WeakMap<Rows, Survey>();

export function surveyOf(rows: Rows): Survey {
  let survey = surveys.get(rows);
  if (survey === undefined) {
    survey = gather(rows);
    surveys.set(rows, survey);
  }
  return survey;
}

function gather(rows: Rows): Survey {
  const totals = new SweepTotals();
  const errors: Pick<Row, "se">[] = [];
  const modes = new Set<Mode>();
  const edits = new Set<Row["mode"]>();
  const flags = new Set<string>();
  const counts: Partial<Record<Row["status"], number>> = {};
  const interactions: Omit<Interaction, "parts">[] = [];
  let metrics: string[] = [];
  const most: HelpfulRow[] = [];
  let [rankable, settled, measurements, helpful] = [0, 0, 0, 0];
  for (const [index, row] of entriesOf(rows)) {
    const { se, interaction } = row;
    if (se !== null && se !== 0) errors.push({ se });
    const mode = modeOf(row);
    if (mode !== null) modes.add(mode);
    for (const flag of row.flags) flags.add(flag);
    if (row.flags.includes(RACE_FLAGS.top) || row.flags.includes(RACE_FLAGS.bottom)) settled++;
    if (metrics.length === 0) metrics = Object.keys(row.metrics);
    if (interaction !== null) {
      for (const flag of interaction.flags) flags.add(flag);
      const { parts: _parts, ...rest } = interaction;
      interactions.push(rest);
    }
    if (index === 0) continue;
    totals.add(row);
    edits.add(row.mode);
    counts[row.status] = (counts[row.status] ?? 0) + 1;
    if (row.delta_nll !== null || row.status === "failed") rankable++;
    measurements += row.blocks;
    if (row.distinguishable && row.delta_nll !== null && row.delta_nll < 0) {
      helpful++;
      most.push({ condition: row.condition, delta_nll: row.delta_nll });
      most.sort((a, b) => (a.delta_nll ?? 0) - (b.delta_nll ?? 0)).splice(NAMED);
    }
  }
  return {
    statistics: totals.statistics(),
    decimals: decimalsFor(errors),
    modes: [...modes],
    edits: [...edits],
    flags,
    counts,
    rankable,
    settled,
    measurements,
    helpful: { count: helpful, most },
    interactions,
    metrics,
  };
}
