/** Which rows a report shows, and in which order. */
import { describe, expect, it } from "vitest";
import { toCsv, toJson } from "../../../src/report/formats.ts";
import { headline } from "../../../src/report/headline.ts";
import { renderTable } from "../../../src/report/table.ts";
import type { Row } from "../../../src/results/row.ts";
import { type Selection, selectRows } from "../../../src/results/selection.ts";
import { facts } from "../planted.ts";

const row = (condition: string, delta_nll: number | null, more: Partial<Row> = {}): Row =>
  ({
    ...{ condition, kind: "mlp", layer: 0, heads: null, mode: "zero", interventions: [], status: "done" },
    ...{ nll: 3, delta_nll, se: 0.01, ci95: null, p: 0.5, q: 0.5, distinguishable: false, flags: [] },
    ...{
      perplexity: 1,
      perplexity_ratio: 1,
      perplexity_ratio_ci95: null,
      blocks: 32,
      tokens: 32,
      seconds: 1,
    },
    ...{ metrics: {}, interaction: null, error: null, standing: null },
    ...more,
  }) as Row;

const kl = (mean: number) => ({ kl: { mean, se: null, ci95: null } });
const ROWS = [
  row("baseline", 0, { kind: "baseline" }),
  row("L2.mlp.zero", -0.3, { layer: 2, q: 0.001, distinguishable: true, metrics: kl(0.4) }),
  row("L0.mlp.zero", 0.2, { layer: 0, q: 0.01, distinguishable: true, metrics: kl(0.1) }),
  row("L3.mlp.zero", null, { layer: 3, status: "failed", q: null, p: null, metrics: {} }),
  row("L1.mlp.zero", -0.1, { layer: 1, q: 0.2, metrics: kl(0.9) }),
];
const selected = (shown: Selection | number | null) =>
  selectRows(ROWS, shown).map(({ row: { condition }, rank }) => `${rank} ${condition[1]}`);

describe("selected rows", () => {
  it.each<[string, Selection | number | null, string[]]>([
    ["all, in the ranking's order", null, ["1 0", "2 1", "3 2", "4 3"]],
    ["the first", 2, ["1 0", "2 1"]],
    ["the last that have an effect", { top: null, bottom: 2 }, ["2 1", "3 2"]],
    ["more than there are", { top: null, bottom: 9 }, ["1 0", "2 1", "3 2"]],
    ["by layer", { top: null, sort: "layer" }, ["1 0", "2 1", "3 2", "4 3"]],
    ["by q, what has none last", { top: null, sort: "q" }, ["3 2", "1 0", "2 1", "4 3"]],
    ["by size", { top: 2, sort: "|delta_nll|" }, ["3 2", "1 0"]],
    ["by a metric", { top: null, sort: "kl" }, ["2 1", "3 2", "1 0", "4 3"]],
    ["the last by a metric", { top: null, bottom: 1, sort: "kl" }, ["1 0"]],
  ])("%s", (_, shown, expected) => expect(selected(shown)).toEqual(expected));

  it("refuses a column that is none, and says which there are", () => {
    expect(() => selected({ top: null, sort: "delta_nl" })).toThrow(
      '--sort delta_nl is no column of this run, did you mean "delta_nll"?; allowed: delta_nll, |delta_nll|, nll,',
    );
  });

  it("are those of every format, the place in the ranking beside them", () => {
    const shown = { top: null, bottom: 1 };
    expect(JSON.parse(toJson(ROWS, facts(), shown)).rows.map(({ condition }: Row) => condition)).toEqual([
      "baseline",
      "L2.mlp.zero",
    ]);
    expect(toCsv(ROWS, shown).trimEnd().split("\r\n")).toHaveLength(3);
    const text = renderTable(ROWS, facts(), { top: null, shown, width: null, paint: (_, one) => one });
    expect(text).toMatch(/^3 {2}\* {2}L2\.mlp\.zero/m);
    expect(text).toContain("The last 1 of 4 conditions shown.");
  });
});

it("helpful removals are named where they are marked, the most helpful first", () => {
  const sentence = (rows: Row[]) => headline(rows, facts()).find((line) => line.startsWith("Helpful"));
  expect(sentence(ROWS)).toMatch(
    /^Helpful removals, marked: removing these lowered the loss on this text: L2\.mlp\.zero \(−0\.30+\)\.$/,
  );
  expect(sentence(ROWS.filter(({ condition }) => condition !== "L2.mlp.zero"))).toBeUndefined();
  const many = Array.from({ length: 7 }, (_, index) =>
    row(`L${index}.mlp.zero`, -index - 1, { distinguishable: true }),
  );
  expect(sentence([ROWS[0] as Row, ...many])).toMatch(
    /: L6\.mlp\.zero .*L2\.mlp\.zero \(−3\.0+\), and 2 more\.$/,
  );
});
