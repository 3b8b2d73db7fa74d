/** The page of a running sweep: report.html's charts and table, filled by its server. */
import { CONDITIONS, renderDocument } from "../document.ts";
import { RANKING_CAPTION } from "../page.ts";

export function renderLivePage(): string {
  return [
    ...renderDocument({
      title: "sparkablate",
      summary: "",
      before: `<p id="live">Connecting …</p>
<progress id="share" max="1" value="0" aria-label="Measured so far"></progress>
<div id="sentences"></div>`,
      heading: "Ranking",
      caption: RANKING_CAPTION,
      items: CONDITIONS,
      after: `<p class="muted">The ranking may still change: intervals shrink while it is measured. The report of the
finished run, with methods, versions and config, is <code>sparkablate report DIR</code>.</p>`,
      data: { columns: [], rows: [], total: 0, charts: [] },
      live: true,
    }),
  ].join("");
}
