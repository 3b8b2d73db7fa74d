/** The ranked table for a terminal: as wide as it may be, in colour where it may be. */
import { getBorderCharacters, table } from "table";
import { printable } from "../printable.ts";
import type { RunFacts } from "../results/facts.ts";
import type { Rows } from "../results/packed-rows.ts";
import { rankInteractions } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import { type Shown, selectionWords, selectRows } from "../results/selection.ts";
import { type Column, columnsOf, interactionColumns } from "./columns.ts";
import { flagLegend, headline } from "./headline.ts";
import { surveyOf } from "./survey.ts";

export interface TableOptions {
  /** Rows to show; null: all. */
  readonly top: number | null;
  /** Which rows, where it is not the first of the ranking. */
  readonly shown?: Shown;
  /** Columns of the terminal; null (a pipe, a file): nothing is dropped or cut. */
  readonly width: number | null;
  /** Styles text where the output supports it, e.g. `styleText` of node:util. */
  readonly paint: (style: "bold" | "dim" | "yellow" | "red", text: string) => string;
}

/** Above the table of interactions, in every format. */
export const INTERACTIONS_HEADING =
  "Interactions: Δ NLL of a joint condition minus the sum of its parts' (+: they back each other up)";

export function renderTable(rows: Rows, facts: RunFacts, options: TableOptions): string {
  const { paint, width } = options;
  const total = rows.length - 1;
  const chosen = selectRows(rows, options.shown ?? options.top);
  const shown = chosen.map(({ row }) => row);
  const ranks = chosen.map(({ rank }) => rank);
  const [first = "", ...others] = headline(rows, facts).map((line) => wrap(printable(line), width));
  const paragraphs = [paint("bold", first), ...others];
  if (shown.length > 0) {
    const style = (row: Row, text: string) => styled(row, text, paint);
    paragraphs.push(
      "",
      renderColumns(shown, columnsOf(shown, facts), surveyOf(rows).decimals, options, style, ranks),
    );
  }
  for (const line of selectionWords(options.shown ?? options.top, shown.length, total))
    paragraphs.push(paint("dim", wrap(line, width)));
  const joint = surveyOf(rows).interactions.length;
  const interactions = rankInteractions(rows, options.top ?? joint);
  if (interactions.length > 0) {
    paragraphs.push(
      "",
      paint("bold", wrap(INTERACTIONS_HEADING, width)),
      "",
      renderColumns(interactions, interactionColumns(facts), surveyOf(rows).decimals, options),
    );
    if (interactions.length < joint)
      paragraphs.push(paint("dim", wrap(`${interactions.length} of ${joint} interactions shown.`, width)));
  }
  const legend = flagLegend([...shown, ...interactions], facts);
  if (legend.length > 0)
    paragraphs.push(paint("dim", wrap(printable(`Flags: ${legend.join("; ")}.`), width)));
  return `${paragraphs.join("\n")}\n`;
}

/** One line an item, in as many of the columns as fit; `style` paints a line's cells. */
export function renderColumns<T>(
  rows: readonly T[],
  all: readonly Column<T>[],
  decimals: number,
  { width, paint }: TableOptions,
  style: (row: T, text: string) => string = (_, text) => text,
  ranks: readonly number[] = rows.map((_, index) => index + 1),
): string {
  const columns = all.filter(({ expendable }) => expendable !== null);
  const cells = columns.map((column) =>
    rows.map((row, index) => printable(column.text(row, ranks[index] as number, decimals))),
  );
  const used = shrink(
    columns.flatMap((column, index) => {
      const texts = cells[index] as string[];
      const filled = texts.some((text) => text !== "");
      return filled ? [{ column, texts, width: Math.max(column.title.length, ...longest(texts)) }] : [];
    }),
    width,
  );
  const body = rows.map((row, index) =>
    used.map(({ texts, width: limit }) => style(row, cut(texts[index] as string, limit))),
  );
  return table([used.map(({ column }) => paint("bold", column.title)), ...body], {
    border: getBorderCharacters("void"),
    columnDefault: { paddingLeft: 0, paddingRight: 2 },
    columns: used.map(({ column }) => ({ alignment: column.align })),
    drawHorizontalLine: () => false,
  })
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n");
}

interface Fitted<T> {
  readonly column: Column<T>;
  readonly texts: readonly string[];
  readonly width: number;
}

/** Drops expendable columns, then narrows the condition's, until a line fits. */
function shrink<T>(columns: readonly Fitted<T>[], width: number | null): readonly Fitted<T>[] {
  const excess =
    columns.reduce((total, column) => total + column.width + 2, -2) - (width ?? Number.POSITIVE_INFINITY);
  if (excess <= 0) return columns;
  const worst = Math.max(...columns.map(({ column }) => column.expendable ?? 0));
  if (worst > 0)
    return shrink(
      columns.filter(({ column }) => (column.expendable ?? 0) < worst),
      width,
    );
  return columns.map((fitted) =>
    fitted.column.title === "condition" ? { ...fitted, width: Math.max(12, fitted.width - excess) } : fitted,
  );
}

/** Longest text's length, as a list that spreads for any number of rows. */
function longest(texts: readonly string[]): [number] {
  return [texts.reduce((length, text) => Math.max(length, text.length), 0)];
}

/** Keeps both ends of a long id: they hold the layer and the mode. */
export function cut(text: string, limit: number): string {
  if (text.length <= limit) return text;
  const tail = Math.floor((limit - 1) / 3);
  return `${text.slice(0, limit - 1 - tail)}…${text.slice(text.length - tail)}`;
}

const styled = (row: Row, text: string, paint: TableOptions["paint"]): string =>
  row.status === "failed" && text !== "" ? paint("red", text) : text;

/** At spaces; null: as one line. */
export function wrap(text: string, width: number | null): string {
  if (width === null) return text;
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1) as string;
    if (line !== "" && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines.join("\n");
}
