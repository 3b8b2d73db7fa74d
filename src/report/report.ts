/** The files that a report adds to a run directory. */
import { lstatSync } from "node:fs";
import { join } from "node:path";
import type { TokenRun } from "../results/tokens.ts";
import { requireOwnFolder } from "../store/own-files.ts";
import { writeAtomically } from "../store/projections.ts";
import type { ReportedRun } from "../store/run-directory.ts";
import { chartsFor } from "./charts.ts";
import type { ModeAudit } from "./modes/audit.ts";
import { auditCharts } from "./modes/formats.ts";
import { renderPage } from "./page.ts";

/**
 * Draws the charts that fit the sweep, and its modes' audit, into `plots/`; their paths.
 * @param unchangedSince ms since the epoch: a drawing that is younger shows these rows already, and is kept.
 */
export async function writePlots(
  directory: string,
  { rows, facts }: ReportedRun,
  audit: ModeAudit | null,
  unchangedSince = Number.POSITIVE_INFINITY,
): Promise<string[]> {
  const charts = [...chartsFor(rows, facts), ...(audit === null ? [] : auditCharts(audit))];
  if (charts.length === 0) return [];
  const pathOf = ({ name }: { readonly name: string }) => join(directory, "plots", `${name}.png`);
  const paths = charts.map(pathOf);
  requireOwnFolder(join(directory, "plots"));
  const missing = charts.filter((chart) => !isYounger(pathOf(chart), unchangedSince));
  if (missing.length === 0) return paths;
  // The canvas is a native library: commands that draw nothing do without it.
  const { renderPng } = await import("./png.ts");
  for (const chart of missing) writeAtomically(pathOf(chart), [renderPng(chart)]);
  return paths;
}

function isYounger(path: string, time: number): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  return stats?.isFile() === true && stats.size > 0 && stats.mtimeMs > time;
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
