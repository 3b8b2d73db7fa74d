/** What running work tells whoever watches it, besides a sweep's rows. */
import type { SparkablateError } from "./errors.ts";
import type { LoadedModel } from "./protocol/messages.ts";
import type { Row } from "./results/row.ts";

/** Told apart by `type`. */
export type RunEvent =
  /** Work before the sweep: loading, tokenising, calibrating. */
  | {
      readonly type: "stage";
      /** What is done, for a person. */
      readonly stage: string;
      /** How far, in `unit`. */
      readonly done: number;
      /** In `unit`; null where it is not known. */
      readonly total: number | null;
      /** E.g. bytes, batches. */
      readonly unit: string;
    }
  /** The model is there and proved. */
  | { readonly type: "loaded"; readonly model: LoadedModel }
  /** Something a person should know: text dropped, a dtype replaced, a layer that offers no site. */
  | { readonly type: "notice"; readonly message: string }
  /** What will be measured. */
  | { readonly type: "plan"; readonly plan: SweepPlan }
  /** One more measurement is stored. */
  | {
      readonly type: "measured";
      /** Null for a null condition, which measures rounding. */
      readonly row: Row | null;
      /** (condition, batch) pairs that are stored. */
      readonly done: number;
      /** Pairs in all. */
      readonly total: number;
      /** Estimated from the rate so far. */
      readonly seconds_left: number;
    }
  /** The run was finished before: its table is shown as it is stored, and no worker was started. */
  | {
      readonly type: "recognised";
      /** False where the model's files are out of reach from here. */
      readonly model_checked: boolean;
      /** When its rows last changed, ISO 8601. */
      readonly unchanged_since: string;
    }
  /** The worker was lost; it is being brought back. */
  | { readonly type: "restart"; readonly error: SparkablateError };

/** How much a sweep will measure. */
export interface SweepPlan {
  /** Absolute path of the run directory. */
  readonly directory: string;
  /** The baseline and null conditions included. */
  readonly conditions: number;
  /** Evaluated under each condition: blocks, or items of a task. */
  readonly blocks: number;
  /** Forward batches that the blocks are split into. */
  readonly batches: number;
  /** Predicted tokens in those blocks, or tokens of those items' answers. */
  readonly tokens: number;
  /** Whether the blocks are items of a task. */
  readonly of_task: boolean;
  /** (condition, batch) pairs in all. */
  readonly total: number;
  /** Pairs that the store has already. */
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

/** Called for every event, as it happens. */
export type OnEvent = (event: RunEvent) => void;

export function notify(on: OnEvent, messages: Iterable<string>): void {
  for (const message of messages) on({ type: "notice", message });
}
