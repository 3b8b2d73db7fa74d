/** The files that a search's report adds to its directory. */
import { join } from "node:path";
import { requireOwnFolder } from "../../store/own-files.ts";
import { writeAtomically } from "../../store/projections.ts";
import type { FinishedSearch } from "../read.ts";
import { searchChart } from "./chart.ts";
import { renderSearchPage } from "./page.ts";

/** Draws `plots/path.png` and writes `report.html`; their paths. */
export async function writeSearchReport(
  directory: string,
  search: FinishedSearch,
): Promise<{ readonly plots: readonly string[]; readonly page: string }> {
  const chart = searchChart(search);
  const plots: string[] = [];
  if (chart !== null) {
    const { renderPng } = await import("../../report/png.ts");
    requireOwnFolder(join(directory, "plots"));
    const path = join(directory, "plots", `${chart.name}.png`);
    writeAtomically(path, [renderPng(chart)]);
    plots.push(path);
  }
  const page = join(directory, "report.html");
  writeAtomically(page, renderSearchPage(search));
  return { plots, page };
}
