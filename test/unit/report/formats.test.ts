import { expect, test } from "vitest";
import { toCsv, toJson, toMarkdown } from "../../../src/report/formats.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { condition, facts, head, sweep } from "../planted.ts";

const strange = condition('=cmd|"x",\n`y`', { kind: "mlp", layer: 1, mode: "zero", positions: "all" });
const { baseline, conditions } = sweep(
  [
    { of: head(0, 3), mean: 0.1, sd: 0.01 },
    { of: strange, mean: 0.05, sd: 0.01 },
  ],
  32,
);
const rows = buildRows(baseline, conditions, { correction: "bh", floor: null });

test("JSON: every digit, the baseline first, then the ranking", () => {
  const document = JSON.parse(toJson(rows, facts(), null));
  expect(document.run.model).toBe("tiny-llama");
  expect(document.statistics).toMatchObject({ conditions: 2, distinguishable: 2 });
  expect(document.rows.map((row: { condition: string }) => row.condition)).toEqual([
    "baseline",
    "L0.head[3].zero",
    strange.id,
  ]);
  expect(document.rows[1].delta_nll).toBe(rows[1]?.delta_nll);
  expect(document.rows[1].ci95).toEqual(rows[1]?.ci95);
  expect(JSON.parse(toJson(rows, facts(), 1)).rows).toHaveLength(2);
});

test("CSV: the same digits as JSON, quoted by RFC 4180, no formulas", () => {
  const csv = toCsv(rows, null);
  const [header = "", , first = ""] = csv.split("\r\n");
  const columns = header.split(",");
  expect(columns.slice(0, 6)).toEqual(["condition", "kind", "layer", "heads", "mode", "interventions"]);
  expect(columns.at(-1)).toBe("error");
  expect(first).toContain(`,${rows[1]?.delta_nll},${rows[1]?.se},${rows[1]?.ci95?.join(",")},`);
  expect(csv).toContain(`"'=cmd|""x"",\\n\`y\`",mlp,1,`);
});

test("Markdown: one line a row, whatever the id holds", () => {
  const markdown = toMarkdown(rows, facts(), null);
  const table = markdown.split("\n").filter((line) => line.startsWith("| "));
  expect(table[1]).toContain("| 1 | `L0.head[3].zero` |");
  expect(table[2]).toContain(`\`=cmd\\|"x",\\n'y'\``);
  expect(table).toHaveLength(3);
});
