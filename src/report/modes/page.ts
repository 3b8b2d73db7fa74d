/** The audit's part of report.html. */
import { escapeHtml, htmlTable, paragraphs } from "../document.ts";
import { counted } from "../numbers.ts";
import type { ModeAudit } from "./audit.ts";
import { artefactsOf, decimalsOfAudit } from "./formats.ts";
import { AUDIT_HEADING, auditColumns, auditSentences, auditTitle } from "./words.ts";

/** Sites in the page's table; `report --format json` has all of them. */
const MOST = 200;

export function auditSection(audit: ModeAudit): string {
  const artefacts = artefactsOf(audit);
  const shown = artefacts.slice(0, MOST);
  const title = auditTitle(audit);
  const table = htmlTable(AUDIT_HEADING, auditColumns(audit), shown, decimalsOfAudit(audit), {
    label: title,
    id: "audit",
  });
  const more =
    shown.length < artefacts.length
      ? paragraphs([`${shown.length} of ${counted(artefacts.length, "artefact")} shown.`], "muted")
      : "";
  return `<h2 id="modes">${escapeHtml(title)}</h2>
${paragraphs(auditSentences(audit))}
${shown.length === 0 ? "" : table}
${more}`;
}
