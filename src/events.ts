/** What a running sweep tells whoever watches it, besides its rows. */
import type { SparkablateError } from "./errors.ts";
import type { LoadedModel } from "./protocol.ts";
import type { Row } from "./rows.ts";

export type RunEvent =
  /** Work before the sweep: loading, tokenising, calibrating. */
  | {
      readonly type: "stage";
      readonly stage: string;
      readonly done: number;
      readonly total: number | null;
      readonly unit: string;
    }
  | { readonly type: "loaded"; readonly model: LoadedModel }
  /** Something a person should know: text dropped, a dtype replaced, a layer that offers no site. */
  | { readonly type: "notice"; readonly message: string }
  | { readonly type: "plan"; readonly plan: SweepPlan }
  /** One more measurement is stored. */
  | {
      readonly type: "measured";
      /** Null for a null condition, which measures rounding. */
      readonly row: Row | null;
      readonly done: number;
      readonly total: number;
      readonly seconds_left: number;
    }
  /** The worker was lost; it is being brought back. */
  | { readonly type: "restart"; readonly error: SparkablateError };

export interface SweepPlan {
  readonly directory: string;
  readonly conditions: number;
  readonly blocks: number;
  readonly batches: number;
  readonly tokens: number;
  /** (condition, batch) pairs to measure in all, and those that the store has already. */
  readonly total: number;
  readonly stored: number;
  /** What is missing, in unedited passes over a full batch; with `stop:` at most that. */
  readonly forward_equivalents: number;
  /** Estimated from one such pass, timed at load. */
  readonly seconds: number;
  /** Of the worker's process (CPU) or of torch on the device, during that pass and with what the walk keeps. */
  readonly peak_bytes: number;
  /** `stop:` may end it earlier. */
  readonly may_stop: boolean;
}

export type OnEvent = (event: RunEvent) => void;
