import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { parseConfig } from "../../../src/config/load.ts";
import { type BlockChoice, chooseBlocks } from "../../../src/samples/blocks.ts";
import { donorItems, drawDonors, readDonors, requireAligned } from "../../../src/samples/donors.ts";
import { chooseItems, type ItemChoice } from "../../../src/samples/items.ts";
import type { EncodedItem } from "../../../src/samples/sample.ts";

const scratch = mkdtempSync(join(tmpdir(), "sources-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const text = (blocks: number, from: number) => ({
  name: `${from}.txt`,
  ids: Int32Array.from({ length: blocks * 8 }, (_, index) => from + index),
});
const choose = (more: Partial<BlockChoice> = {}) =>
  chooseBlocks({
    evaluation: text(40, 0),
    calibration: text(60, 10_000),
    seq_len: 8,
    bos: null,
    batch_size: 4,
    max_batches: 4,
    calibration_batches: 0,
    resample: true,
    seed: 3,
    ...more,
  });

describe("source blocks of mode resample", () => {
  it("are one for each evaluation block, all different, none of them evaluated", () => {
    for (const calibration of [text(60, 10_000), null]) {
      const { evaluation, donors } = choose({ calibration });
      const drawn = donors.resample ?? [];
      expect(drawn).toHaveLength(16);
      const ids = [...evaluation, ...drawn].map(({ sha256 }) => sha256);
      expect(new Set(ids).size).toBe(32);
    }
  });

  it("depend on the seed, not on the batches, nor on whether means are wanted", () => {
    const of = (more: Partial<BlockChoice>) => (choose(more).donors.resample ?? []).map(({ index }) => index);
    expect(of({ batch_size: 2, max_batches: 8 })).toEqual(of({}));
    expect(of({ calibration_batches: 3 })).toEqual(of({}));
    expect(of({ max_batches: 2 })).toEqual(of({}).slice(0, 8));
    expect(of({ seed: 4 })).not.toEqual(of({}));
  });

  it("are new ones where a run confirms another", () => {
    const first = choose({ max_batches: 2 }).donors.resample ?? [];
    const second = choose({ max_batches: 2, skip_batches: 2 }).donors.resample ?? [];
    const drawn = [...first, ...second].map(({ index }) => index);
    expect(new Set(drawn).size).toBe(16);
  });

  it("leave the evaluated blocks as they are without them", () => {
    const plain = choose({ resample: false });
    expect(plain.donors).toEqual({});
    expect(choose().evaluation).toEqual(plain.evaluation);
  });

  it("where there are too few: fewer blocks are evaluated, and it is said", () => {
    const { evaluation, donors, notices } = choose({ calibration: text(10, 10_000) });
    expect(evaluation).toHaveLength(8);
    expect(donors.resample).toHaveLength(8);
    expect(notices.join()).toMatch(
      /needs a donor block for every evaluation block: 10000\.txt has 10 for 16, so 8 are evaluated/,
    );
    const whole = choose({ calibration: null, max_batches: null });
    expect(whole.evaluation.length).toBe(20);
    expect(whole.donors.resample).toHaveLength(20);
  });
});

/** Items with these token counts. */
const encoded = (lengths: readonly number[]): EncodedItem[] =>
  lengths.map((length, index) => ({
    ids: Int32Array.from({ length }, (_, position) => 100 * index + position),
    answer: { begin: length - 1, end: length, wrong: null },
  }));
const task = (count: number) => ({
  name: "task.jsonl",
  sha256: "",
  wrong: false,
  items: Array.from({ length: count }, (_, index) => ({ prompt: `p${index}`, answer: "a" })),
});
const items = (lengths: readonly number[], more: Partial<ItemChoice> = {}) =>
  chooseItems({
    task: task(lengths.length),
    encoded: encoded(lengths),
    seed: 1,
    batch_size: 2,
    max_batches: null,
    skip_batches: 0,
    calibration_batches: 0,
    resample: true,
    ...more,
  });

describe("source items of mode resample", () => {
  it("have as many tokens, are all different, and none is evaluated", () => {
    const lengths = Array.from({ length: 60 }, (_, index) => 5 + (index % 3));
    const { evaluation, donors, seq_len } = items(lengths);
    const drawn = donors.resample ?? [];
    expect(evaluation.length).toBeGreaterThan(20);
    expect(drawn).toHaveLength(evaluation.length);
    for (const [row, { index }] of evaluation.entries()) {
      const source = drawn[row]?.index ?? -1;
      expect(lengths[source]).toBe(lengths[index]);
      expect(drawn[row]?.ids).toHaveLength(seq_len);
    }
    const all = [...evaluation, ...drawn].map(({ index }) => index);
    expect(new Set(all).size).toBe(all.length);
  });

  it("where an item has none it is left out, and it is said; where none has one, refused", () => {
    const { evaluation, notices } = items([...Array<number>(20).fill(5), 9, 10, 11, 12, 13, 14]);
    expect(evaluation.every(({ ids }) => ids[5] === ids[6])).toBe(true);
    expect(notices.join()).toMatch(/task\.jsonl has one for \d+ of \d+/);
    expect(() => items([5, 6, 7, 8])).toThrow(/no two items that are left have as many/);
  });
});

it("no two rows draw one source", () => {
  expect(drawDonors([0, 1, 2], [3, 4, 5], [5, 6, 5, 6, 5, 5])).toEqual([4, 3, 5]);
  expect(drawDonors([0, 1], [2], [5, 5, 5])).toEqual([2, null]);
});

describe("a source file of mode patch", () => {
  const file = (...lines: string[]) => ({ name: "s.jsonl", content: `${lines.join("\n")}\n` });

  it("has a line for every item; the answer is the task's where it has none", () => {
    expect(donorItems(file('{"prompt": "x"}', '{"prompt": "y", "answer": "b"}'), task(2))).toEqual([
      { prompt: "x", answer: "a" },
      { prompt: "y", answer: "b" },
    ]);
  });

  it("is refused with file and line", () => {
    expect(() => donorItems(file('{"prompt": "x"}'), task(2))).toThrow(
      /^s\.jsonl: has 1 lines, but task\.jsonl has 2/,
    );
    expect(() => donorItems(file('{"prompt": "x"}', "nonsense"), task(2))).toThrow(
      /^s\.jsonl:2: is not a donor line/,
    );
    for (const line of ['{"prompt": "x", "prompt": "y"}', '{"prompt": "\\ud800"}'])
      expect(() => donorItems(file(line, '{"prompt": "x"}'), task(2))).toThrow(
        /^s\.jsonl:1: is not a donor line/,
      );
    expect(() => donorItems(file('{"prompt": 3}', "[]"), task(2))).toThrow(/s\.jsonl:1: .*\ns\.jsonl:2: /);
    expect(() => requireAligned("s.jsonl", "t.jsonl", [encoded([5, 7]), encoded([5, 6])])).toThrow(
      "s.jsonl:2: prompt and answer have 6 and 1 tokens, but t.jsonl:2 has 5 and 1: make them equal",
    );
    expect(() => readDonors(join(scratch, "absent.jsonl"))).toThrow(/cannot be read: there is no such file/);
    writeFileSync(join(scratch, "binary.jsonl"), Buffer.from([0xff, 0xfe]));
    expect(() => readDonors(join(scratch, "binary.jsonl"))).toThrow(/is not UTF-8 text/);
  });
});

describe("ablation.source", () => {
  for (const name of ["t.jsonl", "s.jsonl"]) writeFileSync(join(scratch, name), "{}\n");
  const parse = (evaluated: string, ablation: string) => () =>
    parseConfig(`model: {name: a/b}\neval: ${evaluated}\nablation: ${ablation}\n`, "run.yaml", {
      cwd: scratch,
    });

  it("goes with mode patch and a task, and with nothing else", () => {
    expect(parse("{task: t.jsonl}", "{sweep: heads, mode: patch, source: s.jsonl}")).not.toThrow();
    expect(parse("{task: t.jsonl}", "{sweep: heads, mode: [zero, patch]}")).toThrow(
      /^run\.yaml:3: ablation\.source: is missing/,
    );
    expect(parse("{task: t.jsonl}", "{sweep: heads, source: s.jsonl}")).toThrow(
      "run.yaml:3: ablation.source: works only with mode: patch",
    );
    expect(parse("{}", "{sweep: heads, mode: patch, source: s.jsonl}")).toThrow(
      /^run\.yaml:3: ablation\.mode: patch pairs .*: set eval\.task/,
    );
    expect(parse("{task: t.jsonl}", "{sweep: heads, mode: patch, source: absent.jsonl}")).toThrow(
      /ablation\.source/,
    );
    expect(parse("{}", "{sweep: layers, mode: resample}")).toThrow(
      /resample has no meaning for sweep: layers/,
    );
  });

  it("a batch must leave room for its donors", () => {
    expect(
      parse("{seq_len: 1048576, batch_size: 4, calibration_batches: 1}", "{sweep: heads, mode: resample}"),
    ).toThrow(/run\.yaml:2: eval\.batch_size: .* too large with as many donor blocks/);
  });
});
