/** report.html: a run's charts, its ranking, and all that a methods section needs. */

import type { RunFacts } from "../results/facts.ts";
import type { Rows } from "../results/packed-rows.ts";
import { rankRows } from "../results/ranking.ts";
import { type TokenRun, tokenReport } from "../results/tokens.ts";
import { chartsFor } from "./charts.ts";
import { columnsOf } from "./columns.ts";
import { CONDITIONS, escapeHtml, paragraphs, renderDocument, tableData } from "./document.ts";
import { componentName, flagLegend, headline } from "./headline.ts";
import { leftOut, MOST_ROWS } from "./limits.ts";
import { bibtex, methods } from "./methods.ts";
import type { ModeAudit } from "./modes/audit.ts";
import { auditCharts } from "./modes/formats.ts";
import { auditSection } from "./modes/page.ts";
import type { PageData } from "./page-client.ts";
import { surveyOf } from "./survey.ts";
import { tokensSection } from "./tokens/formats.ts";

/** Single tokens that the page shows of each condition whose values are kept. */
const TOP_TOKENS = 20;

/**
 * @param audit of the run's modes; null where no site was edited in two.
 * @param tokens of the conditions whose values a token are kept.
 */
export function renderPage(
  rows: Rows,
  facts: RunFacts,
  audit: ModeAudit | null = null,
  tokens: readonly TokenRun[] = [],
): Generator<string> {
  const [summary = "", ...sentences] = headline(rows, facts);
  const legend = flagLegend(rows, facts);
  return renderDocument({
    title: pageTitle(facts),
    summary,
    before: paragraphs([
      ...sentences,
      ...leftOut(MOST_ROWS, rows.length - 1, "conditions", "that the ranking begins with"),
    ]),
    heading: "Ranking",
    caption: RANKING_CAPTION,
    items: CONDITIONS,
    after: `${legend.length === 0 ? "" : paragraphs([`Flags: ${legend.join("; ")}.`], "muted")}
${audit === null ? "" : auditSection(audit)}
${tokens.map((run) => tokensSection(tokenReport(run, TOP_TOKENS))).join("\n")}
<h2>How these numbers were made</h2>
${paragraphs(methods(rows, facts))}
<h2>Cite</h2>
<pre id="bibtex">${escapeHtml(bibtex(facts))}</pre>
<p><button id="copy" type="button">Copy BibTeX</button></p>
<h2>Versions</h2>
<div class="scroll"><table>${versions(facts)}</table></div>
<h2>Config</h2>
<pre>${escapeHtml(facts.config)}</pre>`,
    data: withCharts(rankingData(rows, facts, MOST_ROWS), audit),
    live: false,
  });
}

const withCharts = (data: PageData, audit: ModeAudit | null): PageData =>
  audit === null ? data : { ...data, charts: [...data.charts, ...auditCharts(audit)] };

export const pageTitle = (facts: RunFacts): string =>
  `${facts.name}: what each ${componentName(facts)} is worth`;

export const RANKING_CAPTION = "Conditions by Δ NLL. A star marks what is distinguishable from 0.";

/** @param most rows that the page carries, the largest effects first. */
export function rankingData(rows: Rows, facts: RunFacts, most: number): PageData {
  return {
    ...tableData(rankRows(rows, most), columnsOf(rows, facts), surveyOf(rows).decimals),
    total: rows.length - 1,
    charts: chartsFor(rows, facts),
  };
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
