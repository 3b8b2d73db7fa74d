import { expect, test } from "vitest";
import { inWords, sayer } from "../../../src/report/wording.ts";

const TASK = { task: { sha256: "a".repeat(64), items: 9, wrong: true } };

test("what is written for blocks says items with a task, and else stays to the letter", () => {
  const sentence = "Blocks are paired by block; each block's mean; this text, 3 predicted tokens.";
  for (const facts of [{}, { task: null }]) expect(inWords(facts, sentence)).toBe(sentence);
  expect(inWords(TASK, sentence)).toBe(
    "Items are paired by item; each item's mean; this task, 3 tokens of answers.",
  );
});

test("a name that a sentence holds is never changed", () => {
  const say = sayer(TASK);
  expect(say`${"block-model"}: ${3} blocks of ${"this text"}, each ${"attention block"}`).toBe(
    "block-model: 3 items of this text, each attention block",
  );
});
