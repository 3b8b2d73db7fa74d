/** The files that a report adds to a run directory. */
import { join } from "node:path";
import type { TokenRun } from "../results/tokens.ts";
import { requireOwnFolder } from "../store/own-files.ts";
import { writeAtomically } from "../store/projections.ts";
import type { ReportedRun } from "../store/run-directory.ts";
import { chartsFor } from "./charts.ts";
import type { ModeAudit } from "./modes/audit.ts";
import { auditCharts } from "./modes/formats.ts";
import { renderPage } from "./page.ts";

/** Draws the charts that fit the sweep, and its modes' audit, into `plots/`; their paths. */
export async function writePlots(
  directory: string,
  { rows, facts }: ReportedRun,
  audit: ModeAudit | null,
): Promise<string[]> {
  const charts = [...chartsFor(rows, facts), ...(audit === null ? [] : auditCharts(audit))];
  if (charts.length === 0) return [];
  // The canvas is a native library: commands that draw nothing do without it.
  const { renderPng } = await import("./png.ts");
  requireOwnFolder(join(directory, "plots"));
  return charts.map((chart) => {
    const path = join(directory, "plots", `${chart.name}.png`);
    writeAtomically(path, [renderPng(chart)]);
    return path;
  });
}

/** Writes the self-contained page; its path. */
export function writePage(
  directory: string,
  { rows, facts }: ReportedRun,
  audit: ModeAudit | null,
  tokens: readonly TokenRun[],
): string {
  const path = join(directory, "report.html");
  writeAtomically(path, renderPage(rows, facts, audit, tokens));
  return path;
}
