/** Held-out blocks that repeat what chose: found wherever they stand, left out, or refused. */
import { describe, expect, test } from "vitest";
import { requireFresh, type Shares } from "../../../src/prune/overlap.ts";
import { blockAt } from "../../../src/samples/blocks.ts";
import { normals } from "../statistics/random.ts";

const SHAPE = { seq_len: 64, bos: null };

/** Tokens that look like no others. */
function text(seed: number, tokens: number): Int32Array {
  const draw = normals(seed);
  return Int32Array.from({ length: tokens }, () => Math.floor(1e6 * Math.abs(draw())));
}

function shares(name: string, ids: Int32Array, choosing: number, testing: number): Shares {
  const block = (_: unknown, index: number) => blockAt(ids, index, SHAPE);
  const blocks = Array.from({ length: choosing + testing }, block);
  return { text: name, selection: blocks.slice(0, choosing), heldOut: blocks.slice(choosing) };
}

const novel = shares("novel", text(1, 64 * 40), 20, 20);

describe("held-out blocks", () => {
  test("that are all new are all used", () => {
    const [found] = requireFresh([novel], { max_delta_nll: 0.1 });
    expect(found).toMatchObject({ all: false, notice: null });
    expect(found?.sha256.size).toBe(0);
  });

  test("that repeat half a block of what chose are left out, at whatever place it stands", () => {
    const ids = text(2, 64 * 40);
    // 33 tokens of selection block 3 come again within held-out blocks 25 and 30, elsewhere in the block.
    for (const to of [64 * 25 + 7, 64 * 30 + 1]) ids.copyWithin(to, 64 * 3 + 20, 64 * 3 + 53);
    const own = shares("own", ids, 20, 20);
    const [found] = requireFresh([own], { max_delta_nll: 0.1 });
    expect([...(found?.sha256 ?? [])]).toEqual([5, 10].map((at) => own.heldOut[at]?.sha256));
    expect(found).toMatchObject({ all: false });
    expect(found?.notice).toBe(
      "2 of 20 held-out blocks of own repeat text that chose the units and are left out",
    );
  });

  test("of one text that repeat what chose of another are found", () => {
    const ids = text(3, 64 * 40);
    ids.set(novel.selection[4]?.ids as Int32Array, 64 * 22 + 31);
    const found = requireFresh([novel, shares("other", ids, 20, 20)], { remove: 1 });
    expect(found.map(({ sha256 }) => sha256.size)).toEqual([0, 1]);
  });

  test("of a page that comes again and again prove nothing: refused where they would test, told where they would not", () => {
    const page = text(4, 300);
    const ids = Int32Array.from({ length: 64 * 40 }, (_, at) => page[at % page.length] as number);
    const repeated = shares("page", ids, 20, 20);
    expect(() => requireFresh([novel, repeated], { max_delta_nll: 0.1 })).toThrow(
      "page: every held-out block repeats text that chooses the units",
    );
    const [, found] = requireFresh([novel, repeated], { remove: 2 });
    expect(found).toMatchObject({ all: true, notice: expect.stringContaining("no independent measurement") });
  });

  test("of a text that is given twice are refused", () => {
    expect(() => requireFresh([novel, { ...novel, text: "copy" }], { remove: 1 })).toThrow(
      "novel and copy hold the same text, which would weigh twice",
    );
  });
});
