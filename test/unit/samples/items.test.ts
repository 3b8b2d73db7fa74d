import { describe, expect, it } from "vitest";
import { checkLengths, chooseItems, decodeItems, type ItemChoice } from "../../../src/samples/items.ts";
import type { EncodedItem } from "../../../src/samples/sample.ts";
import type { Task } from "../../../src/samples/task-file.ts";

/** Item n: n % 5 + 2 prompt tokens, n % 3 + 1 answer tokens, the wrong answer's last token another. */
function encoded(count: number): EncodedItem[] {
  return Array.from({ length: count }, (_, n) => {
    const [begin, end] = [(n % 5) + 2, (n % 5) + 2 + (n % 3) + 1];
    const ids = Int32Array.from({ length: end }, (_, at) => 100 * n + at);
    return { ids, answer: { begin, end, wrong: { at: end - 1, token: 7 } } };
  });
}

const task = (count: number): Task => ({
  name: "t.jsonl",
  sha256: "a".repeat(64),
  wrong: true,
  items: Array.from({ length: count }, (_, n) => ({ prompt: `p${n}`, answer: ` a${n}`, wrong: ` w${n}` })),
});

const choose = (count: number, changes: Partial<ItemChoice> = {}) =>
  chooseItems({
    task: task(count),
    encoded: encoded(count),
    seed: 0,
    batch_size: 4,
    max_batches: 3,
    skip_batches: 0,
    calibration_batches: 0,
    ...changes,
  });

describe("decodeItems", () => {
  const numbers = Int32Array.from([2, 4, 3, 9, 1, 2, -1, -1, /* ids */ 10, 11, 12, 13, 20, 21]);
  const payload = new Uint8Array(numbers.buffer);

  it("reads spans and ids", () => {
    expect(decodeItems(payload, 2, null)).toEqual([
      { ids: Int32Array.of(10, 11, 12, 13), answer: { begin: 2, end: 4, wrong: { at: 3, token: 9 } } },
      { ids: Int32Array.of(20, 21), answer: { begin: 1, end: 2, wrong: null } },
    ]);
  });

  it("puts BOS in front and moves every position", () => {
    expect(decodeItems(payload, 2, 0)).toEqual([
      { ids: Int32Array.of(0, 10, 11, 12, 13), answer: { begin: 3, end: 5, wrong: { at: 4, token: 9 } } },
      { ids: Int32Array.of(0, 20, 21), answer: { begin: 2, end: 3, wrong: null } },
    ]);
  });

  it("refuses what does not add up", () => {
    expect(() => decodeItems(payload.subarray(0, 4 * 13), 2, null)).toThrow(/13 numbers, not 14/);
  });
});

describe("chooseItems", () => {
  it("pads every row to the file's longest item, whichever are chosen, and keeps what is measured", () => {
    const { evaluation, seq_len } = choose(50);
    expect(seq_len).toBe(9);
    expect(evaluation).toHaveLength(12);
    for (const { ids, answer, index, item } of evaluation) {
      const own = encoded(50)[index] as EncodedItem;
      expect(ids).toHaveLength(9);
      expect(ids.subarray(0, answer.end)).toEqual(own.ids);
      expect(new Set(ids.subarray(answer.end - 1)).size).toBe(1);
      expect(answer).toEqual(own.answer);
      expect(item.prompt).toBe(`p${index}`);
    }
    expect(new Set(evaluation.map(({ index }) => index)).size).toBe(12);
    expect(choose(50, { seed: 1 }).evaluation.map(({ index }) => index)).not.toEqual(
      evaluation.map(({ index }) => index),
    );
  });

  it("names an item by its tokens and its answer, not by its padding", () => {
    const digest = (changes: Partial<ItemChoice>) => choose(1, changes).evaluation[0]?.sha256;
    const [item] = encoded(1) as [EncodedItem];
    const known = digest({});
    const longer = [item, { ...item, ids: new Int32Array(40), answer: { ...item.answer, end: 40 } }];
    const chosen = choose(2, { encoded: longer }).evaluation.find(({ index }) => index === 0);
    expect(chosen?.ids).toHaveLength(40);
    expect(chosen?.sha256).toBe(known);
    for (const answer of [
      { ...item.answer, begin: 1 },
      { ...item.answer, wrong: null },
      { ...item.answer, wrong: { at: 2, token: 8 } },
    ])
      expect(digest({ encoded: [{ ...item, answer }] })).not.toBe(known);
  });

  it("takes calibration from the items that evaluation does not use, unpadded", () => {
    const { evaluation, calibration, notices } = choose(50, { calibration_batches: 2 });
    expect(calibration).toHaveLength(8);
    const used = new Set(evaluation.map(({ index }) => index));
    for (const { index, ids } of calibration) {
      expect(used.has(index)).toBe(false);
      expect(ids).toEqual(encoded(50)[index]?.ids);
    }
    expect(notices).toEqual([]);
  });

  it("shares too few items in proportion, in whole batches, and says so", () => {
    const { evaluation, calibration, notices } = choose(18, { max_batches: null, calibration_batches: 2 });
    expect(evaluation).toHaveLength(12);
    expect(calibration).toHaveLength(6);
    expect(notices).toEqual([
      "evaluation uses 12 of the 18 items asked for: t.jsonl holds 18, and batches are whole",
      "calibration uses 6 of the 8 items asked for: t.jsonl holds 18, and batches are whole",
    ]);
  });

  it("says what is needed where nothing is left", () => {
    const coded = (words: RegExp) =>
      expect.objectContaining({ code: "text_too_short", message: expect.stringMatching(words) });
    expect(() => choose(1, { calibration_batches: 1 })).toThrow(
      coded(/one item is left; modes mean and resample need items that evaluation does not use/),
    );
    expect(() => choose(8, { skip_batches: 2 })).toThrow(
      coded(/has 8 items, and eval\.skip_batches leaves out 8/),
    );
  });

  it("skipped batches are the ones that another run uses", () => {
    const first = choose(50).evaluation.map(({ index }) => index);
    const second = choose(50, { skip_batches: 3 }).evaluation.map(({ index }) => index);
    expect(new Set([...first, ...second]).size).toBe(24);
    expect(choose(50, { max_batches: 6 }).evaluation.map(({ index }) => index)).toEqual([
      ...first,
      ...second,
    ]);
  });
});

it("an item longer than a limit is named by its line", () => {
  const limits = [
    { tokens: null, what: "the model's positions" },
    { tokens: 8, what: "eval.seq_len" },
  ];
  expect(() => checkLengths(task(50), encoded(50), limits)).toThrow(
    /^t\.jsonl:15: prompt and answer have 9 tokens; allowed: up to 8 \(eval\.seq_len\)$/,
  );
  checkLengths(task(4), encoded(4), limits);
});
