/**
 * Sentences of reports are written for blocks of a text; where items of a task are evaluated they say so. Only what is
 * written here changes, never a name or a number that a sentence holds.
 */
import type { RunFacts } from "../results/facts.ts";

/** What decides which words fit. */
export type Evaluated = Pick<RunFacts, "task">;

const OF_TASKS: readonly (readonly [RegExp, string])[] = [
  [/\bblock/g, "item"],
  [/\bBlock/g, "Item"],
  [/\bpredicts this text worse\b/g, "gives this task's answers worse"],
  [/\bthis text\b/g, "this task"],
  [/\bone text\b/g, "one task"],
  [/\bper predicted token\b/g, "per token of the answer"],
  [/\bpredicted tokens\b/g, "tokens of answers"],
];

export function inWords({ task }: Evaluated, text: string): string {
  return task == null ? text : OF_TASKS.reduce((said, [from, to]) => said.replaceAll(from, to), text);
}

/** A template tag. */
export function sayer(facts: Evaluated) {
  return (parts: TemplateStringsArray, ...values: readonly unknown[]): string =>
    String.raw({ raw: parts.map((part) => inWords(facts, part)) }, ...values);
}
