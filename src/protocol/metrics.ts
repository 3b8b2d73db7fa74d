/** What the controller makes of the catalogue's metrics. */
import { SparkablateError } from "../errors.ts";
import { METRIC_NAMES, METRICS, type MetricName } from "./catalog.ts";

/** Before the name of a level's column: its change from the baseline. */
export const CHANGE = "delta_";

const LEVELS: ReadonlySet<string> = new Set(
  Object.values(METRICS).flatMap(({ columns, isLevel }): readonly string[] => (isLevel ? columns : [])),
);
export const isLevel = (column: string): boolean => LEVELS.has(column);

export const comparesLogits = (metrics: readonly string[]): boolean =>
  metrics.some((name) => METRICS[name as MetricName].needs === "baseline");

/** What a run measures: what its config asks for, and what belongs to its task. Throws `config_invalid`. */
export function measuredMetrics(
  asked: readonly MetricName[],
  task: { readonly name: string; readonly wrong: boolean } | null,
): MetricName[] {
  if (task === null) return [...asked];
  if (!task.wrong && asked.includes("logit_diff")) {
    const message = `eval.metrics: logit_diff, but ${task.name} has no wrong answers; allowed: without logit_diff`;
    throw new SparkablateError("config_invalid", message);
  }
  const kinds = ["every task", ...(task.wrong ? ["tasks with wrong answers"] : [])];
  return METRIC_NAMES.filter((name) => asked.includes(name) || kinds.includes(METRICS[name].of));
}
