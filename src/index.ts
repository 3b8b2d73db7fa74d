/** The public API of the npm package. Nothing else is meant to be imported. */

export type { Baked, BakeOptions } from "./baking.ts";
export type { Agreement, ComparedPrompt, ComparedText, CompareOptions, Comparison } from "./comparing.ts";
export { type ConfigOptions, loadConfig, parseConfig, type RunConfig } from "./config.ts";
export { Controller, type ControllerOptions } from "./controller.ts";
export type { ScoreEstimate } from "./direction-choice.ts";
export type { Direction } from "./directions.ts";
export { type ErrorCode, SparkablateError } from "./errors.ts";
export type { OnEvent, RunEvent, SweepPlan } from "./events.ts";
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
} from "./finding.ts";
export type {
  Condition,
  Intervention,
  LoadedModel,
  ModelConfig,
  ModelMap,
  Numerics,
  WireError,
} from "./protocol.ts";
export type {
  Interaction,
  MetricEstimate,
  Row,
  RunFacts,
  StatisticsSettings,
  Status,
  TaskFacts,
} from "./rows.ts";
export type { RunOptions } from "./run.ts";
export type { Interval } from "./statistics/effects.ts";
export type { NumericFloor } from "./statistics/floor.ts";
export type { Correction } from "./statistics/multiplicity.ts";
export type { RacePlan } from "./statistics/racing.ts";
export { readRun, type StoredRun } from "./store/run-directory.ts";
