/** A run's rows in ranking order, for machines and manuscripts: every digit, nothing rounded. */

import { printable, printableJson } from "../printable.ts";
import type { RunFacts } from "../results/facts.ts";
import { flatColumns, flatRecord, rowRecord } from "../results/layout.ts";
import type { Rows } from "../results/packed-rows.ts";
import { rankInteractions } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import { type Shown, selectionOf, selectRows } from "../results/selection.ts";
import { type Column, interactionColumns } from "./columns.ts";
import { flagLegend, headline, shortFlags } from "./headline.ts";
import { interval, probability, ratio, signed } from "./numbers.ts";
import { surveyOf } from "./survey.ts";
import { INTERACTIONS_HEADING } from "./table.ts";

/** The baseline, then the rows to show. */
export function ranked(rows: Rows, shown: Shown): Row[] {
  return [...rows.values().take(1), ...selectRows(rows, shown).map(({ row }) => row)];
}

/** @param more further keys of the document. */
export function toJson(
  rows: Rows,
  facts: RunFacts,
  shown: Shown,
  more: Readonly<Record<string, unknown>> = {},
): string {
  const { statistics } = surveyOf(rows);
  const document = { run: facts, statistics, ...more, rows: ranked(rows, shown).map(rowRecord) };
  return `${printableJson(document, 2)}\n`;
}

/** RFC 4180, laid out by `flatRecord`. */
export function toCsv(rows: Rows, shown: Shown): string {
  const records = ranked(rows, shown).map(flatRecord);
  return csv(flatColumns(records), records);
}

export function csv(columns: readonly string[], records: readonly Record<string, unknown>[]): string {
  const lines = records.map((record) => columns.map((column) => csvField(record[column])).join(","));
  return `${[columns.join(","), ...lines].join("\r\n")}\r\n`;
}

/**
 * A leading = + - @ in text would be a formula to a spreadsheet: such text gets an apostrophe. Control characters are
 * written out, as everywhere in text for people; JSON has them as they are.
 */
function csvField(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const shown = printable(value);
  const text = /^[=+\-@]/.test(shown) ? `'${shown}` : shown;
  return /[",]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

interface MarkdownColumn {
  readonly title: string;
  readonly align: "left" | "right";
  /** Whether its cells are ids, shown as code. */
  readonly code?: boolean;
}

const MARKDOWN_COLUMNS: readonly MarkdownColumn[] = [
  { title: "#", align: "right" },
  { title: "condition", align: "left", code: true },
  { title: "Δ NLL", align: "right" },
  { title: "95 % interval", align: "right" },
  { title: "q", align: "right" },
  { title: "perplexity ×", align: "right" },
  { title: "distinguishable", align: "left" },
  { title: "flags", align: "left" },
];

/** What Markdown would take for its own, as the characters that they are. Links need `](`; `[0.1, 0.2]` is none. */
export const markdown = (text: string): string =>
  printable(text).replaceAll(/[\\`*<|~]|&(?=[#\w])|\](?=[([])|(?<!\w)_|_(?!\w)/g, "\\$&");

const code = (text: string): string => `\`${printable(text).replaceAll("`", "'").replaceAll("|", "\\|")}\``;

/** One line a row, whatever its cells hold. */
function markdownTable(columns: readonly MarkdownColumn[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [
    line(columns.map(({ title }) => markdown(title))),
    `|${columns.map(({ align }) => (align === "right" ? "--:" : ":--")).join("|")}|`,
    ...rows.map((cells) => line(cells.map((cell, at) => (columns[at]?.code ? code(cell) : markdown(cell))))),
  ];
}

/** The items by columns that a terminal has too. */
export const markdownOf = <T>(
  columns: readonly Column<T>[],
  items: readonly T[],
  decimals: number,
): string[] =>
  markdownTable(
    columns,
    items.map((item, index) => columns.map(({ text }) => text(item, index + 1, decimals))),
  );

export function toMarkdown(rows: Rows, facts: RunFacts, which: Shown): string {
  const { top } = selectionOf(which);
  const chosen = selectRows(rows, which);
  const shown = chosen.map(({ row }) => row);
  const { decimals } = surveyOf(rows);
  const lines = chosen.map(({ row, rank }) => [
    row.delta_nll === null ? "" : `${rank}`,
    row.condition,
    row.delta_nll === null ? "–" : signed(row.delta_nll, decimals),
    interval(row.ci95, decimals),
    probability(row.q),
    ratio(row.perplexity_ratio),
    row.distinguishable ? "yes" : "no",
    shortFlags(row, facts),
  ]);
  const interactions = rankInteractions(rows, top ?? rows.length);
  const legend = flagLegend([...shown, ...interactions], facts);
  return [
    `## ${markdown(facts.name)}`,
    "",
    ...headline(rows, facts).flatMap((line) => [markdown(line), ""]),
    ...markdownTable(MARKDOWN_COLUMNS, lines),
    ...(interactions.length === 0
      ? []
      : [
          "",
          markdown(`${INTERACTIONS_HEADING}.`),
          "",
          ...markdownOf(interactionColumns(facts), interactions, decimals),
        ]),
    ...(legend.length > 0 ? ["", markdown(`Flags: ${legend.join("; ")}.`)] : []),
    "",
  ].join("\n");
}
