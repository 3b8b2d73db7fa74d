/** What a search asks a controller for. */
import type { RunConfig } from "../config/load.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions, Foreseen } from "../run/bake.ts";
import type { RunOptions } from "../run/run.ts";

export interface Machine {
  readonly run: (config: RunConfig, options: RunOptions) => AsyncIterable<Row>;
  readonly bake: (config: RunConfig, options: BakeOptions) => Promise<Baked>;
  /** What a bake would write; null where the configuration alone does not tell. */
  readonly foresee: (config: RunConfig, options: BakeOptions) => Promise<Foreseen | null>;
}
