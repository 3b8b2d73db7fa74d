/**
 * Where resample and patch take their activations from: row i of the evaluation from row i of the donors, in a
 * batch of the same shape. Pure but for reading the file.
 */
import { basename } from "node:path";
import { readTextFile } from "../config/text-file.ts";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import { littleEndian } from "./bytes.ts";
import type { Block, EncodedItem } from "./sample.ts";
import { MAX_TASK_BYTES, repeatsKey, type Task, type TaskItem } from "./task-file.ts";

/** The file that `ablation.source` names, as text. */
export interface DonorFile {
  readonly name: string;
  readonly content: string;
}

/** Lines that a message lists before it says how many more there are. */
const MOST_PROBLEMS = 5;
const LINE = '{"prompt": "…"} (answer may stand there too; else it is the task\'s)';

/** @throws SparkablateError input_missing; config_invalid for what is no text. */
export function readDonors(path: string): DonorFile {
  return { name: basename(path), content: readTextFile(path, "the file of donors", MAX_TASK_BYTES).text };
}

/**
 * One donor for each of the task's, line by line.
 * @throws SparkablateError config_invalid with file and line of the first faults.
 */
export function donorItems({ name, content }: DonorFile, { name: task, items }: Task): TaskItem[] {
  const lines = content.split("\n");
  if (lines.at(-1)?.trim() === "") lines.pop();
  if (lines.length !== items.length) {
    throw invalid([
      `${name}: has ${lines.length} lines, but ${task} has ${items.length}: give one donor line for each item`,
    ]);
  }
  const problems: string[] = [];
  const found = lines.map((line, index): TaskItem => {
    const of = items[index] as TaskItem;
    const { prompt, answer = of.answer } = parsed(line);
    const isText = (value: unknown): value is string =>
      typeof value === "string" && value !== "" && value.isWellFormed();
    if (isText(prompt) && isText(answer)) return { prompt, answer };
    problems.push(`${name}:${index + 1}: is not a donor line; allowed: ${LINE}`);
    return of;
  });
  if (problems.length > 0) throw invalid(problems);
  return found;
}

function parsed(line: string): { prompt?: unknown; answer?: unknown } {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null && !repeatsKey(line, value) ? value : {};
  } catch {
    return {};
  }
}

/**
 * Position t of a donor stands for position t of the task's: prompts and answers must have equal token counts.
 * @throws SparkablateError config_invalid with file and line of the first lines where they do not.
 */
export function requireAligned(
  source: string,
  task: string,
  [theirs, own]: readonly [readonly EncodedItem[], readonly EncodedItem[]],
): void {
  const problems = own.flatMap(({ ids, answer }, index) => {
    const other = theirs[index] as EncodedItem;
    if (other.ids.length === ids.length && other.answer.begin === answer.begin) return [];
    const counts = (item: EncodedItem) => `${item.answer.begin} and ${item.ids.length - item.answer.begin}`;
    return [
      `${source}:${index + 1}: prompt and answer have ${counts(other)} tokens, but ${task}:${index + 1} has ${counts({ ids, answer })}: make them equal`,
    ];
  });
  if (problems.length > 0) throw invalid(problems);
}

/** The row as it is run: padded on the right with its own last token. */
export function donorRow(index: number, ids: Int32Array, length: number): Block {
  const padded = new Int32Array(length).fill(ids.at(-1) as number);
  padded.set(ids);
  return { index, ids: padded, sha256: sha256(littleEndian(ids)) };
}

/**
 * A source of its own for each row: the first that is left in the pool and has as many tokens. No two rows share one, so
 * that their effects stay independent. Depends on the two orders alone.
 * @param lengths tokens of every item; @returns null where none is left.
 */
export function drawDonors(
  rows: readonly number[],
  pool: readonly number[],
  lengths: readonly number[],
): (number | null)[] {
  const left = new Map<number, number[]>();
  for (const item of pool.toReversed()) {
    const length = lengths[item] as number;
    const list = left.get(length);
    if (list === undefined) left.set(length, [item]);
    else list.push(item);
  }
  return rows.map((row) => left.get(lengths[row] as number)?.pop() ?? null);
}

function invalid(problems: readonly string[]): SparkablateError {
  const more = problems.length - MOST_PROBLEMS;
  const shown = [...problems.slice(0, MOST_PROBLEMS), ...(more > 0 ? [`… and ${more} more`] : [])];
  return new SparkablateError("config_invalid", shown, {
    help: "See docs/resample-or-patch.md for the donor file.",
  });
}
