/**
 * The shell of every page: one file that works offline for ever. Chart.js, data, style and script are inside; a
 * content policy lets nothing else run, and every name from a config is escaped.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { printable, printableLines } from "../printable.ts";
import type { Column } from "./columns.ts";
import { drawingScript } from "./drawing.ts";
import { followRun } from "./live/client.ts";
import { type PageData, runPage } from "./page-client.ts";
import { PAGE_STYLE } from "./page-style.ts";

/** Chart.js and its plugins as browsers load them: package, file beside the one Node would load. */
const LIBRARIES = [
  ["chart.js", "chart.umd.min.js"],
  ["chartjs-chart-matrix", "chartjs-chart-matrix.min.js"],
  ["chartjs-chart-error-bars", "index.umd.min.js"],
] as const;

export interface PageParts {
  readonly title: string;
  readonly summary: string;
  /** Markup between the title and the charts. */
  readonly before: string;
  /** The table's heading, and one sentence on its columns for those who cannot see it. */
  readonly heading: string;
  readonly caption: string;
  /** What the table has a row of. */
  readonly items: {
    /** Several of them. */
    readonly noun: string;
    /** Whether a reader may ask for the distinguishable ones alone. */
    readonly tested: boolean;
    /** The file with the same numbers. */
    readonly file: string;
  };
  /** Markup after the table. */
  readonly after: string;
  readonly data: PageData;
  /** Asks the server that gave the page for new data. */
  readonly live: boolean;
}

/** The rows of a run, or of a comparison of runs. */
export const CONDITIONS: PageParts["items"] = {
  noun: "conditions",
  tested: true,
  file: "the run's results.jsonl",
};

/** In pieces: the text of a large sweep is never whole in memory. */
export function* renderDocument({
  title,
  summary,
  before,
  heading,
  caption,
  items,
  after,
  data,
  live,
}: PageParts): Generator<string> {
  const scripts = [
    ...LIBRARIES.map(([name, file]) => library(name, file)),
    `(${runPage.toString()})(Chart, ${drawingScript()}, ${live ? followRun.toString() : "null"});`,
  ].map((script) => script.replaceAll("</script", "<\\/script"));
  yield `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy(scripts, live)}">
<title>${escapeHtml(title)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<header>
<div><h1 id="title">${escapeHtml(title)}</h1><p id="summary" class="muted">${escapeHtml(summary)}</p></div>
<button id="theme" type="button">Dark theme</button>
</header>
<main>
${before}
<noscript><p><strong>Charts and table need JavaScript; ${items.file} holds the same numbers.</strong></p></noscript>
<h2>Charts</h2>
<div class="controls" id="masking"><label><input id="mask" type="checkbox"> in heatmaps, hide what is not distinguishable</label></div>
<div id="charts"></div>
<h2>${escapeHtml(heading)}</h2>
<div class="controls">
<label>Filter <input id="filter" type="search" autocomplete="off" spellcheck="false"></label>
<label${items.tested ? "" : " hidden"}><input id="only" type="checkbox"> only distinguishable</label>
<span id="count" class="muted" role="status" data-noun="${items.noun}"></span>
</div>
<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(heading)}">
<table id="ranking"><caption class="unseen">${escapeHtml(caption)}</caption><thead></thead><tbody></tbody></table>
</div>
<p><button id="more" type="button" hidden>Show more</button></p>
${after}
</main>
<script type="application/json" id="data">`;
  yield* embed(data);
  yield `</script>
${scripts.map((script) => `<script>${script}</script>`).join("\n")}
</body>
</html>
`;
}

/** A table's items as the page carries them: the text of each cell, and the digits it sorts by. */
export function tableData<T extends { readonly distinguishable: boolean | null }>(
  items: readonly T[],
  columns: readonly Column<T>[],
  decimals: number,
): Pick<PageData, "columns" | "rows"> {
  return {
    columns: columns.map(({ title, align }) => ({ title, align })),
    rows: items.map((item, index) => ({
      cells: columns.map(({ text }) => text(item, index + 1, decimals)),
      keys: columns.map(({ key }) => key(item, index + 1)),
      distinguishable: item.distinguishable === true,
    })),
  };
}

/** A table beside the ranking, which scrolls by itself. @param label what it is called where it is not seen. */
export function htmlTable<T>(
  caption: string,
  columns: readonly Column<T>[],
  items: readonly T[],
  decimals: number,
  { label = caption, id }: { readonly label?: string; readonly id?: string } = {},
): string {
  const side = ({ align }: Column<T>) => (align === "right" ? ' class="number"' : "");
  const header = columns.map((column) => `<th scope="col"${side(column)}>${escapeHtml(column.title)}</th>`);
  const body = items.map((item, index) => {
    const cells = columns.map(
      (column) => `<td${side(column)}>${escapeHtml(column.text(item, index + 1, decimals))}</td>`,
    );
    return `<tr>${cells.join("")}</tr>`;
  });
  const name = id === undefined ? "" : ` id="${id}"`;
  return `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(label)}"><table${name}><caption>${escapeHtml(caption)}</caption><thead><tr>${header.join("")}</tr></thead><tbody>${body.join("")}</tbody></table></div>`;
}

export const paragraphs = (lines: readonly string[], name = ""): string =>
  lines.map((line) => `<p${name === "" ? "" : ` class="${name}"`}>${escapeHtml(line)}</p>`).join("\n");

function library(name: string, file: string): string {
  const path = join(dirname(createRequire(import.meta.url).resolve(name)), file);
  return readFileSync(path, "utf8").replace(/\n\/\/# sourceMappingURL=.*\s*$/, "");
}

function policy(scripts: readonly string[], live: boolean): string {
  const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
  return [
    "default-src 'none'",
    `script-src ${scripts.map(hash).join(" ")}`,
    `style-src ${hash(PAGE_STYLE)}`,
    ...(live ? ["connect-src 'self'"] : []),
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
}

/** JSON inside a script element: nothing in it can end the element. */
function* embed(data: PageData): Generator<string> {
  const json = (value: unknown): string => JSON.stringify(value, namesWrittenOut).replaceAll("<", "\\u003c");
  let opening = "{";
  for (const [key, value] of Object.entries(data)) {
    yield `${opening}${json(key)}:`;
    opening = ",";
    if (!Array.isArray(value)) {
      yield json(value);
      continue;
    }
    for (const [index, item] of value.entries()) yield `${index === 0 ? "[" : ","}${json(item)}`;
    yield value.length === 0 ? "[]" : "]";
  }
  yield "}";
}

/** For JSON.stringify, of what a page shows. */
export const namesWrittenOut = (_key: string, value: unknown): unknown =>
  typeof value === "string" ? printable(value) : value;

/** Lines stay lines: a config is shown too. */
export function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
  };
  return printableLines(text).replaceAll(/[&<>"']/g, (character) => entities[character] as string);
}
