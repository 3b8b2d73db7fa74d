/** Single tokens: the largest, bins whose parts add up, and bytes that are told apart by whoever reads them. */
import { describe, expect, it } from "vitest";
import { shownAfter, shownBefore, shownToken } from "../../../src/report/tokens/bytes.ts";
import { tokensRecord, tokensTable } from "../../../src/report/tokens/formats.ts";
import type { RunFacts } from "../../../src/results/facts.ts";
import { type TokenRun, tokenReport } from "../../../src/results/tokens.ts";
import { estimate, ratioEstimate } from "../../../src/statistics/effects.ts";
import { facts, pageText } from "../planted.ts";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

/** Blocks of ids 0 to 9 with BOS (99) in front; Δ of each token is in `deltas`. */
function run(deltas: readonly (readonly number[])[], changes: Partial<RunFacts> = {}): TokenRun {
  const width = (deltas[0]?.length ?? 0) + 1;
  const blocks = deltas.map((row, block) => ({
    position: 10 * block,
    ids: Int32Array.from({ length: width }, (_, at) => (at === 0 ? 99 : (7 * block + at) % 10)),
    first: 1,
    baseline: new Float32Array(width - 1).fill(2),
    edited: Float32Array.from(row, (delta) => 2 + delta),
  }));
  const texts = new Map([
    [99, bytes("<s>")],
    ...Array.from({ length: 10 }, (_, id) => [id, bytes(`${id} `)] as const),
  ]);
  return { condition: "L0.mlp.zero", facts: facts({ bos: true, ...changes }), blocks, texts };
}

/** Deterministic, of many sizes, exact in float32. */
const planted = Array.from({ length: 40 }, (_, block) =>
  Array.from({ length: 21 }, (_, at) => ((block * 31 + at * 17) % 64) / 32 - 0.5),
);

describe("a condition's tokens", () => {
  const report = tokenReport(run(planted), 25);

  it("adds up: the mean of all, and what the bins of either kind add to it", () => {
    const all = planted.flat();
    expect(report.tokens).toBe(840);
    expect(report.delta).toBeCloseTo(all.reduce((sum, value) => sum + value, 0) / 840, 12);
    expect(report.worse).toBeCloseTo(all.filter((value) => value > 0).length / 840, 12);
    for (const bins of [report.by_position, report.by_frequency]) {
      expect(bins.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(report.delta, 12);
      expect(bins.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(840);
      for (const { mean, tokens, share } of bins) expect((mean * tokens) / 840).toBeCloseTo(share, 12);
    }
    const worst = all.toSorted((a, b) => b - a).slice(0, 9);
    const lost = all.reduce((sum, value) => sum + Math.max(0, value), 0);
    expect(report.concentration).toBeCloseTo(worst.reduce((sum, value) => sum + value, 0) / lost, 12);
  });

  it("shows the largest with where they stand, equals in the order of the text", () => {
    const expected = planted
      .flatMap((row, block) => row.map((delta, at) => ({ delta, block: 10 * block, position: at + 1 })))
      .toSorted((a, b) => b.delta - a.delta)
      .slice(0, 25);
    expect(report.top).toMatchObject(expected);
    const [first] = report.top;
    const { ids } = report.run.blocks[(first?.block ?? 0) / 10] as TokenRun["blocks"][number];
    const text = [...ids.subarray(1, first?.position)].map((id) => `${id} `).join("");
    expect(shownBefore(first?.before ?? bytes(""), 100)).toBe(text.replace(/ $/, "␣"));
    expect(shownToken(first?.bytes ?? bytes(""))).toBe(`${first?.id}␣`);
  });

  it("bins by place, the first alone, and by occurrences that leave out the run's own BOS", () => {
    expect(report.by_position.map(({ from, to }) => [from, to])).toEqual([
      [1, 1],
      [2, 3],
      [4, 7],
      [8, 15],
      [16, 21],
    ]);
    const [first] = report.by_position;
    const alone = estimate(Float64Array.from(planted, ([delta = 0]) => delta));
    expect(first).toMatchObject({ tokens: 40, blocks: 40 });
    expect(first?.mean).toBeCloseTo(alone.mean, 12);
    expect(first?.se).toBeCloseTo(alone.se ?? Number.NaN, 12);
    // 840 tokens of ten ids: each occurs 84 times, give or take a block's end.
    expect(report.by_frequency.map(({ from, to }) => [from, to])).toEqual([[64, 84]]);
    expect(Math.max(...report.top.map(({ count }) => count))).toBeLessThan(128);
  });

  it("gives no interval where fewer than 16 blocks hold such tokens", () => {
    const few = tokenReport(run(planted.slice(0, 15)), 3);
    for (const { ci95, se } of few.by_position) expect([ci95, se === null]).toEqual([null, false]);
    for (const { ci95 } of report.by_position) expect(ci95).not.toBeNull();
  });

  it("says in every format that the top is selected, and gives it no p value", () => {
    const shown = tokensTable(report, { top: null, width: null, paint: (_, text) => text });
    expect(shown).toContain("selected as the largest of all");
    expect(shown).toContain("Where L0.mlp.zero hurts");
    const record = tokensRecord(report);
    expect(record.notes).toContainEqual(expect.stringContaining("there is no p value"));
    expect(JSON.stringify(record)).not.toMatch(/"(p|q)":/);
  });

  it("keeps the page whole whatever a token says", () => {
    const evil = '</td><script>alert(1)</script>"&\u202e\0';
    const attacked = {
      ...run(planted),
      texts: new Map([...run(planted).texts].map(([id]) => [id, bytes(evil)])),
    };
    const page = pageText([], attacked.facts, null, [{ ...attacked, condition: "<b>" }]);
    expect(page).toContain("&lt;/td&gt;&lt;script&gt;alert(1)");
    expect(page).not.toContain("<script>alert(1)");
    expect(page).not.toContain("<b>");
    expect(page).not.toContain("\u202e");
  });
});

describe("ratioEstimate", () => {
  it("is the estimate of the means where all blocks hold as many", () => {
    const sums = Float64Array.of(1, 5, 2, 8, -3, 4);
    const { mean, se, ci95 } = estimate(sums.map((value) => value / 4));
    const ratio = ratioEstimate(sums, new Float64Array(6).fill(4));
    expect(ratio.mean).toBeCloseTo(mean, 14);
    expect(ratio.se).toBeCloseTo(se ?? 0, 14);
    expect(ratio.ci95?.[0]).toBeCloseTo(ci95?.[0] ?? 0, 12);
  });

  it("covers as promised where counts differ and go with nothing", () => {
    let state = 1;
    const random = (): number => {
      state = (state * 48_271) % 2_147_483_647;
      return state / 2_147_483_647;
    };
    const rounds = 2_000;
    let covered = 0;
    for (let round = 0; round < rounds; round++) {
      const counts = Float64Array.from({ length: 32 }, () => 1 + Math.floor(9 * random()));
      const sums = counts.map((count) => {
        let sum = 0;
        for (let one = 0; one < count; one++) sum += random() + random() - 1 + 0.3;
        return sum;
      });
      const [low, high] = ratioEstimate(sums, counts).ci95 ?? [0, 0];
      if (low <= 0.3 && 0.3 <= high) covered++;
    }
    expect(covered / rounds).toBeGreaterThan(0.925);
    expect(covered / rounds).toBeLessThan(0.97);
  });

  it("has no spread to speak of with one block that holds any, or where all agree", () => {
    expect(ratioEstimate(Float64Array.of(0, 6, 0), Float64Array.of(0, 3, 0))).toEqual({
      mean: 2,
      se: null,
      ci95: null,
    });
    expect(ratioEstimate(Float64Array.of(2, 4), Float64Array.of(1, 2))).toEqual({
      mean: 2,
      se: null,
      ci95: null,
    });
  });
});

describe("shown bytes", () => {
  it("show white space, broken characters and what turns the line around", () => {
    expect(shownToken(bytes(" a\n\tb\r"))).toBe("␣a↵→b\\r");
    expect(shownToken(bytes("€").subarray(0, 2))).toBe("\\xe2\\x82");
    expect(shownToken(Uint8Array.of(0x80, 0x41, 0xff, 0xc0, 0xaf))).toBe("\\x80A\\xff\\xc0\\xaf");
    expect(shownToken(bytes("a\u202eb\0\u00a0"))).toBe("a\\u{202e}b\\u{0}\\u{a0}");
    expect(shownToken(bytes("漢 😀"))).toBe("漢␣😀");
    expect(shownBefore(bytes("one two"), 3)).toBe("two");
    expect(shownAfter(bytes(" one two"), 6)).toBe("␣one t");
    expect(shownBefore(bytes("a b  "), 3)).toBe("b␣␣");
  });

  it("are told apart whenever they differ", () => {
    const seen = new Map<string, string>();
    const parts = [
      "\\",
      "x",
      "e2",
      "\\xe2",
      "\n",
      "↵",
      " ",
      "␣",
      "\t",
      "→",
      "\r",
      "r",
      "u{a0}",
      "\u00a0",
      "é",
    ];
    const all = parts.flatMap((a) => parts.map((b) => bytes(a + b)));
    for (let value = 0; value < 256; value++) all.push(Uint8Array.of(value), Uint8Array.of(0xe2, value));
    for (const one of all) {
      const hex = Buffer.from(one).toString("hex");
      const shown = shownToken(one);
      expect(seen.get(shown) ?? hex, shown).toBe(hex);
      seen.set(shown, hex);
    }
  });
});
