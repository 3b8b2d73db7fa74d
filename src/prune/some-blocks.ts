/** Rows of a stored run over some of its blocks alone. */
import type { RunRecord } from "../results/facts.ts";
import type { ConditionMeasurements, Row } from "../results/row.ts";
import { buildRows } from "../results/tabulate.ts";
import type { BlockRecord, RunStore } from "../store/sqlite.ts";

/** @returns the baseline's first, then in the run's order. */
export function rowsOver(store: RunStore, keeps: (block: BlockRecord) => boolean): Row[] {
  const { facts } = store.run() as RunRecord;
  const kept = store.blocks("evaluation").map(keeps);
  const [baseline, ...conditions] = [...store.measurements("edits")].map((all) => onlyOf(all, kept));
  return buildRows(baseline as ConditionMeasurements, conditions, facts.statistics);
}

function onlyOf(all: ConditionMeasurements, kept: readonly boolean[]): ConditionMeasurements {
  const isKept = (_: unknown, index: number) => kept[all.blocks[index] as number] as boolean;
  const sums = Object.entries(all.sums).map(([column, values]) => [column, values.filter(isKept)]);
  return { ...all, blocks: all.blocks.filter(isKept), sums: Object.fromEntries(sums) };
}
