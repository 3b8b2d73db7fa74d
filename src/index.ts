/** The public API of the npm package. Nothing else is meant to be imported. */
import "./node-version.ts";

export {
  type AblationInput,
  type ConfigInput,
  type ConfigOptions,
  defineConfig,
  loadConfig,
  parseConfig,
  type RunConfig,
  type TargetInput,
} from "./config/load.ts";
export { Controller, type ControllerOptions } from "./controller.ts";
export type { ScoreEstimate } from "./directions/choice.ts";
export type { Direction } from "./directions/file.ts";
export {
  type AnswerTokens,
  type ChosenDirection,
  type DirectionOptions,
  type DirectionTable,
  type FoundDirection,
  type PromptSet,
  readPrompts,
  type ScoredCandidate,
  type Scores,
  type SideFacts,
} from "./directions/find.ts";
export { type ErrorCode, SparkablateError } from "./errors.ts";
export type { OnEvent, RunEvent, SweepPlan } from "./events.ts";
export type {
  BakeCard,
  Condition,
  Intervention,
  LoadedModel,
  ModelConfig,
  ModelMap,
  ModelSize,
  Numerics,
  Timing,
  WireError,
} from "./protocol/messages.ts";
export type { Disagreement, TextEffect } from "./prune/held-out.ts";
export type { PruneOutcome } from "./prune/outcome.ts";
export type { Passes } from "./prune/passes.ts";
export type { PathStep, TextLevel, Unedited } from "./prune/path.ts";
export type { Pruned, PruneOptions } from "./prune/prune.ts";
export type { Compensate, PruneSettings, PruneTarget } from "./prune/settings.ts";
export type { Unit } from "./prune/units.ts";
export type { RunFacts, StatisticsSettings, TaskFacts } from "./results/facts.ts";
export type { Interaction, MetricEstimate, Row, Status } from "./results/row.ts";
export type { BakeDtype, Baked, BakeOptions } from "./run/bake.ts";
export type { Agreement, ComparedPrompt, ComparedText, CompareOptions, Comparison } from "./run/compare.ts";
export type { Run } from "./run/handle.ts";
export type { RunOptions } from "./run/run.ts";
export type { Interval } from "./statistics/effects.ts";
export type { NumericFloor } from "./statistics/floor.ts";
export type { Correction } from "./statistics/multiplicity.ts";
export type { RacePlan } from "./statistics/racing.ts";
export { readRun, type StoredRun } from "./store/run-directory.ts";
