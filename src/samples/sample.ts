/** What a model is measured on: a block of a text, or an item of a task. */
import type { DonorMode } from "../protocol/catalog.ts";
import type { Answer } from "../protocol/messages.ts";
import type { TaskItem } from "./task-file.ts";

export interface Block {
  /** The block's place in its text, from 0. */
  readonly index: number;
  /** [seq_len], BOS first where there is one. */
  readonly ids: Int32Array;
  /** Of the ids, as little-endian int32. */
  readonly sha256: string;
}

/** An item as token ids. */
export interface EncodedItem {
  /** BOS first where there is one; not padded. */
  readonly ids: Int32Array;
  readonly answer: Answer;
}

/** An evaluation item. */
export interface ItemBlock extends Block {
  readonly answer: Answer;
  readonly item: TaskItem;
}

/** Mode → a donor for every evaluation row, in their order. */
export type DonorRows = Readonly<Partial<Record<DonorMode, readonly Block[]>>>;
