/** A run's rows in ranking order, for machines and manuscripts: every digit, nothing rounded. */
import { rankRows, sweepStatistics } from "../ranking.ts";
import { flatColumns, flatRecord, type Row, type RunFacts, rowRecord } from "../rows.ts";
import { flagLegend, headline, shortFlags } from "./headline.ts";
import { decimalsFor, interval, printable, probability, ratio, signed } from "./numbers.ts";

/** The baseline, then the ranking's first `top` rows. */
export function ranked(rows: readonly Row[], top: number | null): Row[] {
  return [...rows.slice(0, 1), ...rankRows(rows).slice(0, top ?? rows.length)];
}

export function toJson(rows: readonly Row[], facts: RunFacts, top: number | null): string {
  const document = { run: facts, statistics: sweepStatistics(rows), rows: ranked(rows, top).map(rowRecord) };
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** RFC 4180, laid out by `flatRecord`. */
export function toCsv(rows: readonly Row[], top: number | null): string {
  const records = ranked(rows, top).map(flatRecord);
  const columns = flatColumns(records);
  const lines = records.map((record) => columns.map((column) => csvField(record[column])).join(","));
  return `${[columns.join(","), ...lines].join("\r\n")}\r\n`;
}

/** A leading = + - @ in text would be a formula to a spreadsheet: such text gets an apostrophe. */
function csvField(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function toMarkdown(rows: readonly Row[], facts: RunFacts, top: number | null): string {
  const shown = rankRows(rows).slice(0, top ?? rows.length);
  const decimals = decimalsFor(rows);
  const lines = shown.map((row, index) =>
    [
      row.delta_nll === null ? "" : index + 1,
      `\`${row.condition.replaceAll("`", "'")}\``,
      row.delta_nll === null ? "–" : signed(row.delta_nll, decimals),
      interval(row.ci95, decimals),
      probability(row.q),
      ratio(row.perplexity_ratio),
      row.distinguishable ? "yes" : "no",
      shortFlags(row),
    ]
      .map((cell) => printable(String(cell)).replaceAll("|", "\\|"))
      .join(" | "),
  );
  const legend = flagLegend(shown);
  return [
    `## ${printable(facts.name)}`,
    "",
    ...headline(rows, facts).flatMap((line) => [printable(line).replaceAll("*", "\\*"), ""]),
    "| # | condition | Δ NLL | 95 % interval | q | perplexity × | distinguishable | flags |",
    "|--:|:--|--:|:-:|--:|--:|:--|:--|",
    ...lines.map((line) => `| ${line} |`),
    ...(legend.length > 0 ? ["", `Flags: ${legend.join("; ")}.`] : []),
    "",
  ].join("\n");
}
