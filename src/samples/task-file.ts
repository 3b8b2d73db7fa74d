/** A task file: one JSON object `{prompt, answer, wrong?}` a line. Read and checked before any Python starts. */
import { basename } from "node:path";
import { z } from "zod";
import { leaf, section } from "../config/leaves.ts";
import { readTextFile } from "../config/text-file.ts";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import { MAX_PAYLOAD_BYTES } from "../protocol/messages.ts";

/** What the wire has room for, with what JSON adds. */
export const MAX_TASK_BYTES = MAX_PAYLOAD_BYTES / 2;
/** With the most tokens of a text, what the worker's answer has room for. */
const MOST_ITEMS = 40_000;
/** Lines that a message lists before it says how many more there are. */
const MOST_PROBLEMS = 5;

/** One line of a task file. */
export interface TaskItem {
  /** What the model reads. */
  readonly prompt: string;
  /** What is measured: its tokens alone. */
  readonly answer: string;
  /** What the answer is compared with. */
  readonly wrong?: string | undefined;
}

/** A task file as it was read. */
export interface Task {
  /** The file's name. */
  readonly name: string;
  /** Of the file. */
  readonly sha256: string;
  /** In the order of the file: the n-th is its n-th line. */
  readonly items: readonly TaskItem[];
  /** Whether the items have wrong answers: all of them, or none. */
  readonly wrong: boolean;
}

const text = z
  .string(leaf("a text"))
  .min(1, leaf("a text that is not empty"))
  .refine((value) => value.isWellFormed(), {
    error: "holds half a surrogate pair, which is not Unicode text",
  });
const item = section({ prompt: text, answer: text, wrong: text.optional() });

/** @throws SparkablateError input_missing; config_invalid with file, line and key of the first faults. */
export function readTask(path: string): Task {
  const { bytes, text } = readTextFile(path, "the task file", MAX_TASK_BYTES);
  return { ...parseTask(text, path), name: basename(path), sha256: sha256(bytes) };
}

/** @param path what messages call the file. */
export function parseTask(content: string, path: string): Pick<Task, "items" | "wrong"> {
  if (content.trim() === "") throw invalid([`${path}: is empty; allowed: ${LINE}, one per line`]);
  const lines = content.split("\n");
  if (lines.at(-1)?.trim() === "") lines.pop();
  if (lines.length > MOST_ITEMS)
    throw invalid([`${path}: has ${lines.length} lines; allowed: up to ${MOST_ITEMS}`]);
  const problems: string[] = [];
  const items: TaskItem[] = [];
  /** An item, as text → the line where it stood first. */
  const seen = new Map<string, number>();
  for (const [index, line] of lines.entries()) {
    const parsed = parseLine(line);
    for (const problem of Array.isArray(parsed) ? parsed : [])
      problems.push(`${path}:${index + 1}: ${problem}`);
    if (Array.isArray(parsed)) continue;
    const key = JSON.stringify([parsed.prompt, parsed.answer, parsed.wrong]);
    const first = seen.get(key);
    if (first === undefined) seen.set(key, index + 1);
    else problems.push(`${path}:${index + 1}: repeats line ${first}: remove one of them`);
    items.push(parsed);
  }
  const [first] = items;
  const odd = items.findIndex(({ wrong }) => (wrong === undefined) !== (first?.wrong === undefined));
  if (problems.length === 0 && odd >= 0) {
    const [has, lacks] =
      first?.wrong === undefined ? ["has", "line 1 has none"] : ["has no", "line 1 has one"];
    problems.push(
      `${path}:${odd + 1}: wrong: ${has} wrong answer, but ${lacks}: give one on every line or on none`,
    );
  }
  if (problems.length > 0) throw invalid(problems);
  return { items, wrong: first?.wrong !== undefined };
}

const LINE = '{"prompt": "…", "answer": "…", "wrong": "…"} (wrong may be left out)';

/** The item, or what is wrong with it. */
function parseLine(line: string): TaskItem | string[] {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return [line.trim() === "" ? `is empty; allowed: ${LINE}` : `is not JSON; allowed: ${LINE}`];
  }
  if (repeatsKey(line, value)) return [`names a key twice; allowed: ${LINE}`];
  const { data, error } = item.safeParse(value);
  if (error === undefined) {
    if (data.answer !== data.wrong) return data;
    return ["wrong: is the answer itself: give another one"];
  }
  return error.issues.flatMap((issue) =>
    issue.code === "unrecognized_keys"
      ? issue.message.split("\n").map((message, index) => `${issue.keys[index]}: ${message}`)
      : [`${issue.path.length === 0 ? "" : `${issue.path.join(".")}: `}${issue.message}`],
  );
}

/** Of two values for one key JSON.parse takes the later in silence. @param value what the line was parsed to. */
export function repeatsKey(line: string, value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  // Each string as a whole, so that one inside another is not taken for a key; a colon follows keys alone.
  const keys = line.match(/"(?:[^"\\]|\\.)*"(?:\s*:)?/g)?.filter((text) => text.endsWith(":")) ?? [];
  return keys.length !== keysOf(value);
}

/** Keys of all objects in it. */
const keysOf = (value: unknown): number =>
  typeof value !== "object" || value === null
    ? 0
    : Object.values(value).reduce<number>(
        (sum, inner) => sum + keysOf(inner),
        Array.isArray(value) ? 0 : Object.keys(value).length,
      );

function invalid(problems: readonly string[]): SparkablateError {
  const more = problems.length - MOST_PROBLEMS;
  const shown = [...problems.slice(0, MOST_PROBLEMS), ...(more > 0 ? [`… and ${more} more`] : [])];
  return new SparkablateError("config_invalid", shown, {
    help: "See docs/tasks.md for the task file.",
  });
}
