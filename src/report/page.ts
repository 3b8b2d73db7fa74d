/**
 * report.html: one file that works offline for ever. Chart.js, data, style and script are inside; a
 * content policy lets nothing else run, and every name from a config is escaped.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { rankRows } from "../ranking.ts";
import type { Row, RunFacts } from "../rows.ts";
import { type ChartDefinition, chartsFor } from "./charts.ts";
import { columnsOf } from "./columns.ts";
import { drawing } from "./drawing.ts";
import { componentName, flagLegend, headline } from "./headline.ts";
import { bibtex, methods } from "./methods.ts";
import { decimalsFor } from "./numbers.ts";
import { type PageData, runPage } from "./page-client.ts";
import { PAGE_STYLE } from "./page-style.ts";

/** Chart.js and its plugins as browsers load them: package, file beside the one Node would load. */
const LIBRARIES = [
  ["chart.js", "chart.umd.min.js"],
  ["chartjs-chart-matrix", "chartjs-chart-matrix.min.js"],
  ["chartjs-chart-error-bars", "index.umd.min.js"],
] as const;

export function renderPage(rows: readonly Row[], facts: RunFacts): string {
  const charts = chartsFor(rows, facts);
  const scripts = [
    ...LIBRARIES.map(([name, file]) => library(name, file)),
    `(${runPage.toString()})(Chart, (${drawing.toString()})());`,
  ].map((script) => script.replaceAll("</script", "<\\/script"));
  const [summary = "", ...sentences] = headline(rows, facts);
  const legend = flagLegend(rows);
  const title = `${facts.name}: what each ${componentName(facts)} is worth`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy(scripts)}">
<title>${escapeHtml(title)}</title>
<style>${PAGE_STYLE}</style>
</head>
<body>
<header>
<div><h1>${escapeHtml(title)}</h1><p class="muted">${escapeHtml(summary)}</p></div>
<button id="theme" type="button">Dark theme</button>
</header>
<main>
${sentences.map((line) => `<p>${escapeHtml(line)}</p>`).join("\n")}
<noscript><p><strong>Charts and table need JavaScript; the run's results.jsonl holds the same numbers.</strong></p></noscript>
<h2>Charts</h2>
<div class="controls"><label><input id="mask" type="checkbox"> in heatmaps, hide what is not distinguishable</label></div>
${charts.map(figure).join("\n")}
<h2>Ranking</h2>
<div class="controls">
<label>Filter <input id="filter" type="search" autocomplete="off" spellcheck="false"></label>
<label><input id="only" type="checkbox"> only distinguishable</label>
<span id="count" class="muted" role="status"></span>
</div>
<div class="scroll" tabindex="0" role="region" aria-label="Ranking of conditions">
<table id="ranking"><caption class="unseen">Conditions by Δ NLL. A star marks what is distinguishable from 0.</caption><thead></thead><tbody></tbody></table>
</div>
<p><button id="more" type="button" hidden>Show more</button></p>
${legend.length === 0 ? "" : `<p class="muted">Flags: ${escapeHtml(legend.join("; "))}.</p>`}
<h2>How these numbers were made</h2>
${methods(rows, facts)
  .map((paragraph) => `<p>${escapeHtml(paragraph)}</p>`)
  .join("\n")}
<h2>Cite</h2>
<pre id="bibtex">${escapeHtml(bibtex(facts))}</pre>
<p><button id="copy" type="button">Copy BibTeX</button></p>
<h2>Versions</h2>
<div class="scroll"><table>${versions(facts)}</table></div>
<h2>Config</h2>
<pre>${escapeHtml(facts.config)}</pre>
</main>
<script type="application/json" id="data">${embed(pageData(rows, charts))}</script>
${scripts.map((script) => `<script>${script}</script>`).join("\n")}
</body>
</html>
`;
}

function pageData(rows: readonly Row[], charts: readonly ChartDefinition[]): PageData {
  const columns = columnsOf(rows);
  const decimals = decimalsFor(rows);
  return {
    columns: columns.map(({ title, align }) => ({ title, align })),
    rows: rankRows(rows).map((row, index) => ({
      cells: columns.map(({ text }) => text(row, index + 1, decimals)),
      keys: columns.map(({ key }) => key(row, index + 1)),
      distinguishable: row.distinguishable === true,
    })),
    charts,
  };
}

function figure(chart: ChartDefinition, index: number): string {
  const notes = [...chart.subtitle, ...chart.legend, ...chart.notes].map(escapeHtml).join("<br>");
  return `<figure>
<h3>${escapeHtml(chart.title)}</h3>
<div class="scroll"><div class="chart"><canvas id="chart-${index}" tabindex="0" role="img" aria-label="${escapeHtml(`${chart.title}. ${chart.description} Arrow keys read the values.`)}"></canvas></div></div>
<div id="told-${index}" class="unseen" role="status"></div>
<figcaption>${notes}</figcaption>
</figure>`;
}

function versions(facts: RunFacts): string {
  const { versions: packages, ...numerics } = facts.numerics;
  const entries = {
    sparkablate: facts.version,
    ...packages,
    "weights sha256": facts.weights_sha256,
    ...numerics,
    started: facts.started,
    finished: facts.finished ?? "not yet",
  };
  return Object.entries(entries)
    .map(
      ([name, value]) =>
        `<tr><th scope="row">${escapeHtml(name.replaceAll("_", " "))}</th><td>${escapeHtml(String(value))}</td></tr>`,
    )
    .join("");
}

function library(name: string, file: string): string {
  const path = join(dirname(createRequire(import.meta.url).resolve(name)), file);
  return readFileSync(path, "utf8").replace(/\n\/\/# sourceMappingURL=.*\s*$/, "");
}

function policy(scripts: readonly string[]): string {
  const hash = (text: string) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
  return [
    "default-src 'none'",
    `script-src ${scripts.map(hash).join(" ")}`,
    `style-src ${hash(PAGE_STYLE)}`,
    "base-uri 'none'",
    "form-action 'none'",
  ].join("; ");
}

/** JSON inside a script element: nothing in it can end the element. */
function embed(data: PageData): string {
  return JSON.stringify(data).replaceAll("<", "\\u003c");
}

function escapeHtml(text: string): string {
  const entities: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
  };
  return text.replaceAll(/[&<>"']/g, (character) => entities[character] as string);
}
