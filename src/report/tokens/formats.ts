/** Where a condition hurts, for terminals, machines and the page. */

import { printable } from "../../printable.ts";
import type { TokenBin, TokenReport } from "../../results/tokens.ts";
import type { Column } from "../columns.ts";
import { escapeHtml, htmlTable, paragraphs } from "../document.ts";
import { decimalsFor } from "../numbers.ts";
import { renderColumns, type TableOptions, wrap } from "../table.ts";
import { shownAfter, shownBefore, shownToken } from "./bytes.ts";
import {
  binColumns,
  frequencyHeading,
  positionHeading,
  tokenColumns,
  tokensNotes,
  tokensSentences,
  tokensTitle,
  topHeading,
} from "./words.ts";

/** Characters of context in machine output. */
const BEFORE = 60;
const BEHIND = 30;

/** A table of the report: heading, columns, rows. */
interface Part<T> {
  readonly heading: string;
  readonly columns: readonly Column<T>[];
  readonly rows: readonly T[];
  readonly decimals: number;
}

function binParts(report: TokenReport): Part<TokenBin>[] {
  const { by_position, by_frequency } = report;
  const decimals = decimalsFor([...by_position, ...by_frequency]);
  return [
    { heading: positionHeading(report), columns: binColumns("position"), rows: by_position, decimals },
    { heading: frequencyHeading, columns: binColumns("occurrences"), rows: by_frequency, decimals },
  ];
}

const topPart = (report: TokenReport) => ({
  heading: topHeading(report),
  columns: tokenColumns(report),
  rows: report.top,
  decimals: 0,
});

export function tokensTable(report: TokenReport, options: TableOptions): string {
  const { paint, width } = options;
  const line = (text: string) => wrap(printable(text), width);
  const table = <T>({ heading, columns, rows, decimals }: Part<T>): string[] => [
    "",
    paint("bold", line(heading)),
    "",
    renderColumns(rows, columns, decimals, options).trimEnd(),
  ];
  return `${[
    paint("bold", line(tokensTitle(report))),
    ...tokensSentences(report).map(line),
    ...table(topPart(report)),
    ...binParts(report).flatMap((part) => table(part)),
    "",
    ...tokensNotes(report).map((note) => paint("dim", line(note))),
  ].join("\n")}\n`;
}

/** Every digit; a token's bytes in hexadecimal beside what is shown of them. */
export function tokensRecord(report: TokenReport): Record<string, unknown> {
  const { run, top, by_position, by_frequency, tokens, delta, worse, better, concentration } = report;
  const { name, model, text, task } = run.facts;
  return {
    run: name,
    model,
    text,
    condition: run.condition,
    unit: task == null ? "block" : "item",
    blocks: run.blocks.length,
    tokens,
    delta_nll: delta,
    worse,
    better,
    concentration,
    top: top.map(({ bytes, before, after, ...token }) => ({
      ...token,
      token: shownToken(bytes),
      bytes: Buffer.from(bytes).toString("hex"),
      before: shownBefore(before, BEFORE),
      after: shownAfter(after, BEHIND),
    })),
    by_position,
    by_frequency,
    notes: tokensNotes(report),
  };
}

/** The page's part: any bytes may stand in a token. */
export function tokensSection(report: TokenReport): string {
  const title = escapeHtml(tokensTitle(report));
  const table = <T>({ heading, columns, rows, decimals }: Part<T>): string =>
    htmlTable(heading, columns, rows, decimals);
  return `<h2 class="tokens">${title}</h2>
${paragraphs(tokensSentences(report))}
${table(topPart(report))}
${binParts(report).map(table).join("\n")}
${paragraphs(tokensNotes(report), "muted")}`;
}
