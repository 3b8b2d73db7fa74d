/** What a search asks a controller for. */
import type { RunConfig } from "../config/load.ts";
import type { OnEvent } from "../events.ts";
import type { ModelConfig, ModelMap, Result } from "../protocol/messages.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions, Foreseen } from "../run/bake.ts";
import type { RunOptions } from "../run/run.ts";
import type { Block } from "../samples/sample.ts";

export interface Machine {
  readonly run: (config: RunConfig, options: RunOptions) => AsyncIterable<Row>;
  readonly bake: (config: RunConfig, options: BakeOptions) => Promise<Baked>;
  /** What the model's configuration says, without its weights. */
  readonly inspect: (model: ModelConfig) => Promise<Pick<Result<"inspect">, "model_map">>;
  /** What a bake would write; null where the configuration alone does not tell. */
  readonly foresee: (config: RunConfig, options: BakeOptions) => Promise<Foreseen | null>;
  /** What a config is measured on. */
  readonly blocks: (config: RunConfig, on: OnEvent) => Promise<readonly Block[]>;
  /** The model's map. */
  readonly map: (config: RunConfig, on: OnEvent) => Promise<ModelMap>;
  /** Of every neuron, [neurons] a layer: the first-order effect of its zero or mean on what a config is measured on, nats a token. */
  readonly neurons: (
    config: RunConfig,
    mode: "zero" | "mean",
    on: OnEvent,
    signal?: AbortSignal,
  ) => Promise<Float64Array[]>;
}
