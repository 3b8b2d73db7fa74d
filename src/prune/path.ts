/** What a search's path is made of: the model as it is, and the best set found of each size. */
import type { ModelSize } from "../protocol/messages.ts";
import type { Interval } from "../statistics/effects.ts";
import type { Step } from "./held-out.ts";

/** How well a model does on one text's held-out blocks. */
export interface TextLevel {
  /** Its path or name, as it was given. */
  readonly text: string;
  /** Nats a token; null where it could not be measured. */
  readonly nll: number | null;
  /** Two-sided t interval over blocks: for the text's other blocks, not for the difference of two models. */
  readonly ci95: Interval | null;
}

/** The best set found of one size, and what it costs. */
export interface PathStep extends Step {
  /** Ids of the removed units. */
  readonly removed: readonly string[];
  /** On the selection blocks, which chose it: too low, and no result. */
  readonly selection_delta_nll: number;
  /** Whether it holds the set of the size before. */
  readonly nested: boolean;
  /** Why no stock checkpoint can be without them; null: one can. */
  readonly refusal: string | null;
  /** Of the checkpoint without them; null where there can be none, and where only the loaded model shows where its parts are. */
  readonly weights: ModelSize | null;
  /** One for each text, in their order. */
  readonly nll: readonly TextLevel[];
}

/** The model before anything is removed. */
export interface Unedited {
  /** null where only the loaded model shows where its parts are. */
  readonly weights: ModelSize | null;
  /** One for each text, in their order, on the held-out blocks. */
  readonly nll: readonly TextLevel[];
}
