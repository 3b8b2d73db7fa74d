/** The files that a comparison of runs adds to the first of their directories. */
import { join, sep } from "node:path";
import { requireOwnFolder } from "../../store/own-files.ts";
import { writeAtomically } from "../../store/projections.ts";
import type { Agreement, NamedRun } from "./agreement.ts";
import { agreementChart } from "./chart.ts";
import { renderAgreementPage } from "./page.ts";

export interface AgreementFiles {
  readonly plots: readonly string[];
  readonly page: string;
}

export async function writeAgreement(
  runs: readonly NamedRun[],
  agreements: readonly Agreement[],
): Promise<AgreementFiles> {
  const home = runs[0]?.directory ?? ".";
  const others = runs.slice(1);
  const { renderPng } = await import("../png.ts");
  requireOwnFolder(join(home, "plots"));
  const plots = agreements.map((agreement) => {
    const path = join(home, "plots", `${fileName(agreement.runs)}.png`);
    writeAtomically(path, [renderPng(agreementChart(agreement))]);
    return path;
  });
  const page = join(home, `${fileName(others, "agreement-with")}.html`);
  writeAtomically(page, renderAgreementPage(runs, agreements));
  return { plots, page };
}

/** From the directories' names as they are on disk, with the parents that tell them apart. */
function fileName(runs: readonly NamedRun[], prefix = "agreement"): string {
  return [prefix, ...runs.map(({ name }) => name.replaceAll(sep, "_"))].join("-").slice(0, 200);
}
