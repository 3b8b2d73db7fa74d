/** The public API of the npm package. Nothing else is meant to be imported. */

export type { Baked, BakeOptions } from "./baking.ts";
export type { Agreement, ComparedPrompt, ComparedText, CompareOptions, Comparison } from "./comparing.ts";
export { type ConfigOptions, loadConfig, parseConfig, type RunConfig } from "./config.ts";
export { Controller, type ControllerOptions } from "./controller.ts";
export { type ErrorCode, SparkablateError } from "./errors.ts";
export type { OnEvent, RunEvent, SweepPlan } from "./events.ts";
export {
  type DirectionOptions,
  type DirectionTable,
  type FoundDirection,
  type PromptSet,
  readPrompts,
} from "./finding.ts";
export type { Condition, Intervention, LoadedModel, ModelConfig, ModelMap } from "./protocol.ts";
export type { Row, RunFacts } from "./rows.ts";
export type { RunOptions } from "./run.ts";
export { readRun, type StoredRun } from "./store/run-directory.ts";
