/** What the controller must know of the rows of METRICS in worker/sparkablate/measure/metrics.py. Adding one is one row here. */
import { SparkablateError } from "../errors.ts";

interface Metric {
  /** Whether it compares with the unedited model's logits, and so runs that model's stack and head once more. */
  readonly compares: boolean;
  /** What it gives, in the worker's order. */
  readonly columns: readonly string[];
  /** Whether they say something of a condition alone: then their change from the baseline stands beside them. */
  readonly isLevel: boolean;
  /** In which runs of a task it is measured unasked. */
  readonly of: "no task" | "every task" | "tasks with wrong answers";
}

export const METRICS = {
  nll: { compares: false, columns: ["nll"], isLevel: false, of: "every task" },
  kl: { compares: true, columns: ["kl"], isLevel: false, of: "no task" },
  top1: { compares: true, columns: ["top1", "top1_ties"], isLevel: false, of: "no task" },
  logit_diff: { compares: false, columns: ["logit_diff"], isLevel: true, of: "tasks with wrong answers" },
  accuracy: { compares: false, columns: ["accuracy"], isLevel: true, of: "every task" },
} as const satisfies Record<string, Metric>;

export type MetricName = keyof typeof METRICS;
export const METRIC_NAMES = Object.keys(METRICS) as [MetricName, ...MetricName[]];

/** Before the name of a level's column: its change from the baseline. */
export const CHANGE = "delta_";

const LEVELS: ReadonlySet<string> = new Set(
  Object.values(METRICS).flatMap(({ columns, isLevel }): readonly string[] => (isLevel ? columns : [])),
);
export const isLevel = (column: string): boolean => LEVELS.has(column);

export const comparesLogits = (metrics: readonly string[]): boolean =>
  metrics.some((name) => METRICS[name as MetricName].compares);

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
