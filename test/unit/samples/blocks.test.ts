import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  type BlockChoice,
  blockAt,
  chooseBlocks,
  cutBlocks,
  sampleBlocks,
} from "../../../src/samples/blocks.ts";

/** Distinct ids, so that each says where it stood in its text. */
const counting = (length: number, from = 0) => Int32Array.from({ length }, (_, index) => from + index);
const SHAPE = { seq_len: 64, bos: null };
const BOS = { seq_len: 64, bos: 7 };

const choose = (
  choice: Partial<Omit<BlockChoice, "evaluation" | "calibration">> & {
    evaluation: Int32Array;
    calibration?: Int32Array;
  },
) =>
  chooseBlocks({
    ...SHAPE,
    batch_size: 4,
    max_batches: 2,
    calibration_batches: 0,
    seed: 0,
    ...choice,
    evaluation: { name: "text.txt", ids: choice.evaluation },
    calibration: choice.calibration === undefined ? null : { name: "other.txt", ids: choice.calibration },
  });

describe("cutting", () => {
  it("drops the last partial block and counts BOS in seq_len", () => {
    expect(cutBlocks(counting(64 * 3 + 5), SHAPE)).toEqual({ blocks: 3, dropped: 5 });
    expect(cutBlocks(counting(63 * 3 + 5), BOS)).toEqual({ blocks: 3, dropped: 5 });
    expect(cutBlocks(counting(63), SHAPE)).toEqual({ blocks: 0, dropped: 63 });
  });

  it("puts the blocks' tokens together to the text, BOS in front of every one", () => {
    const ids = counting(63 * 3, 100);
    const blocks = [0, 1, 2].map((index) => blockAt(ids, index, BOS));
    for (const block of blocks) expect([block.ids.length, block.ids[0]]).toEqual([64, 7]);
    expect(blocks.flatMap((block) => [...block.ids.slice(1)])).toEqual([...ids]);
  });

  it("names a block by its little-endian int32 ids", () => {
    const bytes = Buffer.alloc(16);
    for (const [index, id] of [1, 2, 70_000, 4].entries()) bytes.writeInt32LE(id, index * 4);
    const { sha256 } = blockAt(Int32Array.of(1, 2, 70_000, 4), 0, { seq_len: 4, bos: null });
    expect(sha256).toBe(createHash("sha256").update(bytes).digest("hex"));
  });
});

describe("sampling", () => {
  const sample = (total: number, wanted: number | null, seed: number, batch_size = 1) =>
    sampleBlocks({ total, wanted, seed, batch_size });

  // From an implementation of the documented generator in Python.
  it("is the same in every version", () => {
    expect(sample(1000, 8, 0)).toEqual([885, 136, 465, 983, 430, 881, 90, 359]);
    expect(sample(1000, 8, 1)).toEqual([479, 51, 781, 347, 518, 105, 899, 934]);
    expect(sample(10, null, 7)).toEqual([5, 7, 3, 4, 2, 9, 1, 8, 0, 6]);
  });

  it("never repeats a block, and a larger sample begins with the smaller one", () => {
    for (const seed of [0, 1, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
      const all = sample(257, null, seed);
      expect(all.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 257 }, (_, index) => index));
      expect(sample(257, 100, seed)).toEqual(all.slice(0, 100));
    }
  });

  it("takes whole batches, or one short batch where there is no more", () => {
    expect(sample(100, 10, 0, 4)).toHaveLength(8);
    expect(sample(11, 64, 0, 4)).toHaveLength(8);
    expect(sample(3, 64, 0, 4)).toHaveLength(3);
    expect(sample(4, 4, 0, 4)).toHaveLength(4);
  });

  it("prefers no place: every block comes first about as often as another", () => {
    const firsts = Array.from({ length: 5000 }, (_, seed) => sample(10, 1, seed)[0]);
    const counts = Array.from({ length: 10 }, (_, block) => firsts.filter((first) => first === block).length);
    const chiSquared = counts.reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0);
    expect(chiSquared).toBeLessThan(27.9); // 9 degrees of freedom, p = 0.001
  });
});

describe("choosing", () => {
  it("takes evaluation and calibration from one text, disjoint", () => {
    const ids = counting(64 * 40);
    const { evaluation, calibration, notices } = choose({
      evaluation: ids,
      max_batches: 5,
      calibration_batches: 3,
    });
    expect([evaluation.length, calibration.length, notices]).toEqual([20, 12, []]);
    const used = [...evaluation, ...calibration].map(({ index }) => index);
    expect(new Set(used).size).toBe(32);
    // What is calibrated does not change what is evaluated.
    expect(choose({ evaluation: ids, max_batches: 5 }).evaluation).toEqual(evaluation);
  });

  it("treats a copy of the evaluation text as the same text", () => {
    const ids = counting(64 * 40);
    expect(choose({ evaluation: ids, calibration: ids.slice(), calibration_batches: 3 })).toEqual(
      choose({ evaluation: ids, calibration_batches: 3 }),
    );
  });

  it("leaves out calibration text that repeats evaluation text, whatever its alignment", () => {
    const text = counting(64 * 16);
    const shifted = Int32Array.of(...counting(13, 50_000), ...text, ...counting(64 * 8, 60_000));
    const { evaluation, calibration, notices } = choose({
      evaluation: text,
      calibration: shifted,
      max_batches: 4,
      calibration_batches: 6,
    });
    const evaluated = new Set(evaluation.flatMap(({ ids }) => [...ids]));
    expect(evaluation).toHaveLength(16);
    expect(calibration.length).toBeGreaterThanOrEqual(7);
    // At most the few tokens of a run too short for the window.
    for (const { ids } of calibration) expect(ids.filter((id) => evaluated.has(id)).length).toBeLessThan(63);
    expect(notices).toContainEqual(
      expect.stringMatching(/other\.txt: \d+ calibration blocks repeat evaluation text/),
    );
    expect(notices).toContainEqual(expect.stringMatching(/calibration uses \d+ of the 24 blocks asked for/));
    expect(() =>
      choose({ evaluation: text, calibration: text.subarray(1), max_batches: 4, calibration_batches: 1 }),
    ).toThrow(expect.objectContaining({ code: "text_too_short" }));
  });

  it("divides a text that is too short for both, and says so", () => {
    const { evaluation, calibration, notices } = choose({
      evaluation: counting(64 * 20),
      max_batches: 5,
      calibration_batches: 5,
    });
    expect(evaluation).toHaveLength(8);
    expect(calibration).toHaveLength(12);
    expect(notices).toEqual([
      "evaluation uses 8 of the 20 blocks asked for: text.txt holds 20",
      "calibration uses 12 of the 20 blocks asked for: text.txt holds 20",
    ]);
    const smallest = choose({ evaluation: counting(64 * 2), max_batches: null, calibration_batches: 8 });
    expect([smallest.evaluation.length, smallest.calibration.length]).toEqual([1, 1]);
  });

  it("says what is dropped and what is missing", () => {
    expect(choose({ evaluation: counting(64 * 3 + 1) }).notices).toEqual([
      "text.txt: 3 blocks; the last 1 tokens fill no block and are dropped",
      "evaluation uses 3 of the 8 blocks asked for: text.txt holds 3",
    ]);
    const long = choose({ evaluation: new Int32Array(4_000_064), seq_len: 100_000, max_batches: null });
    expect(long.evaluation).toHaveLength(40);
    expect(long.notices).toEqual(["text.txt: the first 4000000 of 4000064 tokens are used"]);
  });

  it("refuses a text that is too short, with the numbers", () => {
    const refused = (message: RegExp) =>
      expect.objectContaining({ code: "text_too_short", message: expect.stringMatching(message) });
    expect(() => choose({ evaluation: counting(63) })).toThrow(
      refused(/^text\.txt: the text has 63 tokens, and a block of eval\.seq_len 64 takes 64$/),
    );
    expect(() => choose({ evaluation: counting(62), ...BOS })).toThrow(
      refused(/has 62 tokens, .* takes 63 after its BOS token$/),
    );
    expect(() => choose({ evaluation: new Int32Array(0) })).toThrow(refused(/has 0 tokens/));
    expect(() =>
      choose({ evaluation: counting(64 * 9), calibration: counting(5), calibration_batches: 1 }),
    ).toThrow(refused(/^other\.txt: the text has 5 tokens/));
    expect(() => choose({ evaluation: counting(64), calibration_batches: 1 })).toThrow(
      refused(/holds one block/),
    );
  });

  it("leaves the head of the seed's order to another run", () => {
    const text = { evaluation: counting(64 * 40), batch_size: 4, max_batches: 2, calibration_batches: 1 };
    const first = choose(text);
    const second = choose({ ...text, skip_batches: 3 });
    const used = new Set([...first.evaluation, ...first.calibration].map(({ index }) => index));
    expect(second.evaluation).toHaveLength(8);
    for (const { index } of [...second.evaluation, ...second.calibration])
      expect(used.has(index)).toBe(false);
    expect(choose({ ...text, skip_batches: 0 }).evaluation).toEqual(first.evaluation);
    expect(() => choose({ ...text, skip_batches: 10 })).toThrow(
      /has 40 blocks, and eval\.skip_batches leaves out 40/,
    );
  });
});
