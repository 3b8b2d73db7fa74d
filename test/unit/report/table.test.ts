import { describe, expect, test } from "vitest";
import { renderTable } from "../../../src/report/table.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { condition, facts, measured, skip, sweep } from "../planted.ts";

const SETTINGS = { correction: "bh", floor: null } as const;
const plain = (_: string, text: string) => text;
const { baseline, conditions } = sweep(
  [
    { of: skip(0), mean: 5.25, sd: 0.2 },
    { of: skip(1), mean: 0.125, sd: 0.01 },
    { of: skip(2), mean: 0.001, sd: 0.01 },
  ],
  32,
);
const failed = measured(skip(3), [], { error: { code: "nonfinite_logits", message: "NaN" } });
const rows = buildRows(baseline, [...conditions, failed], SETTINGS);
const lines = (width: number | null, top: number | null = null) =>
  renderTable(rows, facts(), { top, width, paint: plain }).split("\n");

describe("the ranked table", () => {
  test.each([72, 80, 100, 132])("fits a terminal of %i columns", (width) => {
    for (const line of lines(width)) expect(line.length).toBeLessThanOrEqual(width);
  });

  test("says model, dtype, text, blocks, tokens, baseline and what the ranking means", () => {
    const text = lines(null).join("\n");
    for (const part of [
      "tiny-llama, float32 on cpu; northanger-abbey.txt, 32 blocks of 256 tokens",
      `Baseline: NLL ${rows[0]?.nll?.toFixed(4)} nats per token`,
      "Ranked by Δ NLL: nats per token",
      "2 of 3 effects distinguishable from 0",
      "Smallest detectable effect",
      "Failed: 1 condition",
    ]) {
      expect(text).toContain(part);
    }
  });

  test("ranks by Δ NLL, marks what is distinguishable, keeps the failed with its code", () => {
    const ranked = lines(null).filter((line) => line.includes(".layer.skip"));
    expect(ranked[0]).toMatch(/^1 {2}\* {2}L0\.layer\.skip {2}\+5\.25\d* .* 32$/);
    expect(ranked[1]).toMatch(/^2 {2}\* {2}L1\.layer\.skip {2}\+0\.125\d* /);
    expect(ranked[2]).toMatch(/^3 {5}L2\.layer\.skip {2}\+0\.001\d* /);
    expect(ranked[3]).toMatch(/L3\.layer\.skip.*nonfinite_logits$/);
  });

  test("--top says how many there are", () => {
    const shown = lines(80, 1);
    expect(shown.filter((line) => line.includes(".layer.skip"))).toHaveLength(1);
    expect(shown).toContain("1 of 4 conditions shown.");
  });

  test("a long id keeps its ends in a terminal and all of it in a pipe", () => {
    const id = `${Array.from({ length: 20 }, (_, layer) => `L${layer}.layer.skip`).join(" + ")}`;
    const joint = condition(
      id,
      { kind: "layer", layer: 0, mode: "skip" },
      { kind: "layer", layer: 1, mode: "skip" },
    );
    const wide = buildRows(
      baseline,
      [{ ...conditions[0], condition: joint } as (typeof conditions)[0]],
      SETTINGS,
    );
    const render = (width: number | null) => renderTable(wide, facts(), { top: null, width, paint: plain });
    expect(render(null)).toContain(id);
    expect(render(80)).toMatch(/L0\.layer\.skip.*….*layer\.skip/);
    for (const line of render(80).split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });

  test("names cannot steer the terminal", () => {
    const evil = buildRows(
      baseline,
      [{ ...conditions[0], condition: condition("a\u001b[2J\nb") } as (typeof conditions)[0]],
      SETTINGS,
    );
    const text = renderTable(evil, facts({ model: "m\u001b]0;x\u0007" }), {
      top: null,
      width: null,
      paint: plain,
    });
    expect(text).not.toMatch(/(?!\n)\p{Cc}/u);
    expect(text).toContain("a\\x1b[2J\\nb");
  });

  test("a race says what it settled and what it cost, and no q stands in the table", () => {
    const race = { top: 1, confidence: 0.95, tolerance: 0.001, conditions: 3, rounds: [16, 32] };
    const settings = { ...SETTINGS, race };
    const text = renderTable(buildRows(baseline, conditions, settings), facts({ statistics: settings }), {
      top: null,
      width: null,
      paint: plain,
    });
    expect(text).toContain("Top 1: 1 settled at 95 % confidence (approximate)");
    expect(text).toContain("Measured: 96 of 96 condition × blocks");
    expect(text).toMatch(/L0\.layer\.skip.* – .*in the top/);
  });

  test("an unfinished run says so", () => {
    const text = renderTable(rows.slice(0, 2), facts({ finished: null }), {
      top: null,
      width: null,
      paint: plain,
    });
    expect(text).toContain("Unfinished: 3 of 4 conditions not measured yet.");
  });

  test("a flag is explained under the table", () => {
    const few = sweep([{ of: skip(0), mean: 3, sd: 0.1 }], 8);
    const table = renderTable(buildRows(few.baseline, few.conditions, SETTINGS), facts(), {
      top: null,
      width: 80,
      paint: plain,
    });
    expect(table).toContain("1 more with q ≤ 0.05 not marked because of a flag.");
    expect(table).toContain("Flags: few blocks: fewer than 16 blocks");
  });
});
