/** A task's items → evaluation rows of one length, and calibration rows. Pure, like corpus.ts. */

import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import { type ChosenBlocks, sampleBlocks, shuffled, wholeBatches } from "./blocks.ts";
import { littleEndian } from "./bytes.ts";
import { donorRow, drawDonors } from "./donors.ts";
import type { EncodedItem, ItemBlock } from "./sample.ts";
import type { Task, TaskItem } from "./task-file.ts";

export interface ItemChoice {
  readonly task: Task;
  /** Of the task's items, in its order. */
  readonly encoded: readonly EncodedItem[];
  readonly seed: number;
  readonly batch_size: number;
  /** null: all items. */
  readonly max_batches: number | null;
  readonly skip_batches: number;
  /** Out of the items that evaluation does not use; 0 where no mean is needed, or another text gives it. */
  readonly calibration_batches: number;
  /** Whether every evaluation item needs a donor of its own, with as many tokens. */
  readonly resample?: boolean;
}

export interface ChosenItems extends ChosenBlocks {
  readonly evaluation: ItemBlock[];
  /** Tokens of the longest item of the file: what every row is padded to, whichever items are chosen. */
  readonly seq_len: number;
}

/** What the worker's answer to `tokenize_task` holds, with BOS in front of every item where there is one. */
export function decodeItems(payload: Uint8Array, items: number, bos: number | null): EncodedItem[] {
  const numbers = new Int32Array(new Uint8Array(payload).buffer);
  const offset = bos === null ? 0 : 1;
  const encoded: EncodedItem[] = [];
  let from = 4 * items;
  for (let index = 0; index < items; index++) {
    const [begin = 0, end = 0, at = -1, token = -1] = numbers.subarray(4 * index, 4 * index + 4);
    const ids = new Int32Array(end + offset);
    if (bos !== null) ids[0] = bos;
    ids.set(numbers.subarray(from, from + end), offset);
    from += end;
    encoded.push({
      ids,
      answer: {
        begin: begin + offset,
        end: end + offset,
        wrong: at < 0 ? null : { at: at + offset, token },
      },
    });
  }
  if (from !== numbers.length)
    throw new SparkablateError("invalid_message", `tokenize_task: ${numbers.length} numbers, not ${from}`);
  return encoded;
}

/** @throws SparkablateError config_invalid, with the line, for an item longer than `limits` allow. */
export function checkLengths(
  task: Task,
  encoded: readonly EncodedItem[],
  limits: readonly { readonly tokens: number | null; readonly what: string }[],
): void {
  for (const [index, { ids }] of encoded.entries()) {
    const broken = limits.find(({ tokens }) => tokens !== null && ids.length > tokens);
    if (broken === undefined) continue;
    const message = `${task.name}:${index + 1}: prompt and answer have ${ids.length} tokens; allowed: up to ${broken.tokens} (${broken.what})`;
    throw new SparkablateError("config_invalid", message, {
      help: "Shorten the item, or raise eval.seq_len if the model has enough positions.",
    });
  }
}

/** @throws SparkablateError text_too_short, with the numbers. */
export function chooseItems(choice: ItemChoice): ChosenItems {
  const { task, encoded, seed, batch_size, skip_batches, resample = false } = choice;
  const total = encoded.length;
  const skipped = skip_batches * batch_size;
  const left = total - skipped;
  if (left <= 0) {
    const message = `${task.name}: the task has ${total} items, and eval.skip_batches leaves out ${skipped}`;
    throw new SparkablateError("text_too_short", message, {
      help: "Use a task with more items, or lower eval.skip_batches.",
    });
  }
  const wanted = choice.max_batches === null ? left : choice.max_batches * batch_size;
  const calibrationWanted = choice.calibration_batches * batch_size;
  const reserved = reserve(task.name, left, wanted, Math.max(calibrationWanted, resample ? wanted : 0));
  const most = Math.min(wanted, left - reserved);
  const sampled = sampleBlocks({ total, seed, batch_size, skip_batches, wanted: most });
  const unused = shuffled(total, seed).slice(skipped + sampled.length);
  const notices: string[] = [];
  if (sampled.length < wanted) notices.push(fewer(task.name, "evaluation", wanted, sampled.length, total));
  const donors = resample ? donorsOf(choice, sampled, unused, notices) : null;
  const chosen = donors === null ? sampled : [...donors.keys()];
  const calibration = unused.slice(0, calibrationWanted);
  if (calibration.length < calibrationWanted)
    notices.push(fewer(task.name, "calibration", calibrationWanted, calibration.length, total));
  const seq_len = encoded.reduce((longest, { ids }) => Math.max(longest, ids.length), 0);
  const idsOf = (index: number): Int32Array => (encoded[index] as EncodedItem).ids;
  return {
    seq_len,
    evaluation: chosen.map((index) => evaluationRow(choice, index, seq_len)),
    calibration: calibration.map((index) => ({
      index,
      ids: idsOf(index),
      sha256: sha256(littleEndian(idsOf(index))),
    })),
    donors:
      donors === null
        ? {}
        : { resample: [...donors.values()].map((donor) => donorRow(donor, idsOf(donor), seq_len)) },
    notices,
  };
}

/** Item → another with as many tokens, that evaluation does not use: those that have one, in whole batches. */
function donorsOf(
  { task, encoded, batch_size }: ItemChoice,
  sampled: readonly number[],
  unused: readonly number[],
  notices: string[],
): Map<number, number> {
  const lengths = encoded.map(({ ids }) => ids.length);
  const drawn = drawDonors(sampled, unused, lengths);
  const paired = sampled.flatMap((index, row): [number, number][] => {
    const donor = drawn[row] ?? null;
    return donor === null ? [] : [[index, donor]];
  });
  const chosen = new Map(paired.slice(0, wholeBatches(paired.length, batch_size)));
  if (chosen.size === 0) {
    const message = `${task.name}: mode: resample gives every item a donor of its own with as many tokens, and no two items that are left have as many`;
    throw new SparkablateError("text_too_short", message, { help: "Use a task with more items." });
  }
  if (chosen.size < sampled.length) {
    notices.push(
      `mode resample needs a donor item for every item, with as many tokens, that evaluation does not use: ${task.name} has one for ${paired.length} of ${sampled.length}, so ${chosen.size} are evaluated (in whole batches)`,
    );
  }
  return chosen;
}

/** The item, padded on the right with its own last token, which is sure to be in the vocabulary. */
function evaluationRow({ task, encoded }: ItemChoice, index: number, seq_len: number): ItemBlock {
  const { ids, answer } = encoded[index] as EncodedItem;
  const padded = new Int32Array(seq_len).fill(ids.at(-1) as number);
  padded.set(ids);
  const { begin, end, wrong } = answer;
  const numbers = Int32Array.of(begin, end, wrong?.at ?? -1, wrong?.token ?? -1);
  return {
    index,
    ids: padded,
    // Of what is measured: the padding depends on the other items of the file.
    sha256: sha256(Buffer.concat([littleEndian(ids), littleEndian(numbers)])),
    answer,
    item: task.items[index] as TaskItem,
  };
}

/** Items that evaluation must leave to calibration; in proportion where there are too few for both. */
function reserve(name: string, left: number, wanted: number, calibrationWanted: number): number {
  if (calibrationWanted === 0 || wanted + calibrationWanted <= left) return calibrationWanted;
  if (left < 2) {
    throw new SparkablateError(
      "text_too_short",
      `${name}: one item is left; modes mean and resample need items that evaluation does not use`,
      { help: "Use a task with more items, or name a text in eval.calibration." },
    );
  }
  return Math.min(
    left - 1,
    Math.max(1, Math.floor((left * calibrationWanted) / (wanted + calibrationWanted))),
  );
}

const fewer = (name: string, what: string, wanted: number, found: number, total: number): string =>
  `${what} uses ${found} of the ${wanted} items asked for: ${name} holds ${total}, and batches are whole`;
