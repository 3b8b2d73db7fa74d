/** What a search asks a controller for. */
import type { RunConfig } from "../config/load.ts";
import type { ModelConfig, Result } from "../protocol/messages.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions, Foreseen } from "../run/bake.ts";
import type { RunOptions } from "../run/run.ts";

export interface Machine {
  readonly run: (config: RunConfig, options: RunOptions) => AsyncIterable<Row>;
  readonly bake: (config: RunConfig, options: BakeOptions) => Promise<Baked>;
  /** What the model's configuration says, without its weights. */
  readonly inspect: (model: ModelConfig) => Promise<Pick<Result<"inspect">, "model_map">>;
  /** What a bake would write; null where the configuration alone does not tell. */
  readonly foresee: (config: RunConfig, options: BakeOptions) => Promise<Foreseen | null>;
}
