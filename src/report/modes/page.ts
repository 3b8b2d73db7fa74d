/** The audit's part of report.html. */
import { escapeHtml, paragraphs } from "../document.ts";
import { counted } from "../numbers.ts";
import type { ModeAudit } from "./audit.ts";
import { artefactsOf, decimalsOfAudit } from "./formats.ts";
import { AUDIT_HEADING, auditColumns, auditSentences, auditTitle } from "./words.ts";

/** Sites in the page's table; `report --format json` has all of them. */
const MOST = 200;

export function auditSection(audit: ModeAudit): string {
  const artefacts = artefactsOf(audit);
  const shown = artefacts.slice(0, MOST);
  const columns = auditColumns(audit);
  const decimals = decimalsOfAudit(audit);
  const align = (side: "left" | "right") => (side === "right" ? ' class="number"' : "");
  const header = columns.map(
    (column) => `<th scope="col"${align(column.align)}>${escapeHtml(column.title)}</th>`,
  );
  const body = shown.map((site, index) => {
    const cells = columns.map(
      ({ text, align: side }) => `<td${align(side)}>${escapeHtml(text(site, index + 1, decimals))}</td>`,
    );
    return `<tr>${cells.join("")}</tr>`;
  });
  const more =
    shown.length < artefacts.length
      ? paragraphs([`${shown.length} of ${counted(artefacts.length, "artefact")} shown.`], "muted")
      : "";
  return `<h2 id="modes">${escapeHtml(auditTitle(audit))}</h2>
${paragraphs(auditSentences(audit))}
${
  shown.length === 0
    ? ""
    : `<div class="scroll" tabindex="0" role="region" aria-label="${escapeHtml(auditTitle(audit))}"><table id="audit"><caption>${escapeHtml(AUDIT_HEADING)}</caption><thead><tr>${header.join("")}</tr></thead><tbody>${body.join("")}</tbody></table></div>`
}
${more}`;
}
