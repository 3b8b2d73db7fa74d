/** The audit for terminals, machines and manuscripts. */
import { printable } from "../../printable.ts";
import { agreementChart } from "../agreement/chart.ts";
import { pairRecord } from "../agreement/formats.ts";
import type { ScatterChart } from "../chart.ts";
import { markdown, markdownOf } from "../formats.ts";
import { decimalsFor } from "../numbers.ts";
import { renderColumns, type TableOptions, wrap } from "../table.ts";
import type { ModeAudit, SiteAudit } from "./audit.ts";
import { AUDIT_HEADING, auditColumns, auditSentences, auditTitle, finding } from "./words.ts";

/** Artefacts shown where no number was asked for. */
const DEFAULT_TOP = 10;

export const artefactsOf = ({ sites }: ModeAudit): SiteAudit[] => sites.filter(({ artefact }) => artefact);

export const decimalsOfAudit = ({ sites }: ModeAudit): number =>
  decimalsFor(sites.flatMap(({ rows }) => rows.flatMap((row) => row ?? [])));

export function auditTable(audit: ModeAudit, options: TableOptions): string {
  const { paint, width, top } = options;
  const line = (text: string) => wrap(printable(text), width);
  const artefacts = artefactsOf(audit);
  const shown = artefacts.slice(0, top ?? DEFAULT_TOP);
  const lines = [paint("bold", line(auditTitle(audit))), ...auditSentences(audit).map(line)];
  if (shown.length > 0) {
    const table = renderColumns(shown, auditColumns(audit), decimalsOfAudit(audit), options);
    lines.push("", paint("bold", line(AUDIT_HEADING)), "", table.trimEnd());
  }
  if (shown.length < artefacts.length)
    lines.push(paint("dim", line(`${shown.length} of ${artefacts.length} artefacts shown.`)));
  return `\n${lines.join("\n")}\n`;
}

export function auditMarkdown(audit: ModeAudit, top: number | null): string {
  const artefacts = artefactsOf(audit);
  const shown = artefacts.slice(0, top ?? artefacts.length);
  const paragraph = (text: string) => ["", markdown(text)];
  return [
    "",
    `## ${markdown(auditTitle(audit))}`,
    ...auditSentences(audit).flatMap(paragraph),
    ...(shown.length === 0
      ? []
      : [
          ...paragraph(`${AUDIT_HEADING}.`),
          "",
          ...markdownOf(auditColumns(audit), shown, decimalsOfAudit(audit)),
        ]),
    "",
  ].join("\n");
}

/** Every digit, every site; `top` shortens the lists alone. */
export function auditRecord({ modes, agreements, tests, sites }: ModeAudit, top: number | null) {
  return {
    modes,
    tests,
    agreement: agreements.map(
      ({ runs: [a, b], ranking, top: tops, halves, alone, unmeasured, unpaired }) => ({
        a: a.name,
        b: b.name,
        unpaired,
        ranking,
        top: tops,
        halves,
        only_in_a: alone[0],
        only_in_b: alone[1],
        unmeasured,
      }),
    ),
    sites: sites.slice(0, top ?? sites.length).map((site) => ({
      site: site.site,
      artefact: site.artefact,
      finding: finding(site),
      comparisons: site.comparisons.map(({ modes: [a, b], verdict, larger, adjusted, pair }) => {
        const { site: _, ...record } = pairRecord(pair);
        return { modes: [a, b], verdict, larger, ...record, adjusted_interval: adjusted };
      }),
    })),
  };
}

/** One scatter a pair of modes. */
export function auditCharts({ agreements }: ModeAudit): ScatterChart[] {
  return agreements.map((agreement) => {
    const { notes, ...chart } = agreementChart(agreement);
    return {
      ...chart,
      name: `modes-${agreement.runs.map(({ name }) => name).join("-")}`,
      notes: notes.map((note) =>
        note.replace("over all conditions shown", "over all differences between modes"),
      ),
    };
  });
}
