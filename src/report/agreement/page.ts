/** agreement-with-….html: the scatters, and where the runs disagree. */
import type { Column } from "../columns.ts";
import { CONDITIONS, paragraphs, renderDocument, tableData } from "../document.ts";
import { leftOut, MOST_ROWS } from "../limits.ts";
import type { PageData } from "../page-client.ts";
import { inWords } from "../wording.ts";
import type { Agreement, NamedRun, Pair } from "./agreement.ts";
import { agreementChart } from "./chart.ts";
import { columnsOfAgreement, pairColumns } from "./columns.ts";
import { cautions, evaluatedInAll, findings, pairDecimals, pairLegend, runLine, title } from "./words.ts";

export function renderAgreementPage(
  runs: readonly NamedRun[],
  agreements: readonly Agreement[],
): Generator<string> {
  const pairs = agreements.flatMap((agreement) => agreement.pairs);
  const facts = evaluatedInAll(agreements);
  const legend = pairLegend(pairs, facts);
  const most = Math.floor(MOST_ROWS / agreements.length);
  return renderDocument({
    title: title(runs),
    summary: runs.map(({ letter, name }) => `${letter}: ${name}`).join("; "),
    before: `${paragraphs(runs.map(runLine))}
${agreements.map((one) => `${paragraphs(cautions(one), "caution")}\n${paragraphs(findings(one))}`).join("\n")}
${paragraphs(agreements.flatMap((one) => leftOut(most, one.pairs.length, "conditions", "with the largest disagreements")))}`,
    heading: "Disagreements",
    caption:
      "Conditions by the size of the disagreement. A star marks a difference that is distinguishable from 0.",
    items: CONDITIONS,
    after: `${legend.length === 0 ? "" : paragraphs([`Flags: ${legend.join("; ")}.`], "muted")}
<h2>How these numbers were made</h2>
${paragraphs(METHODS.map((text) => inWords(facts, text)))}`,
    data: {
      ...tableOf(agreements, most),
      total: pairs.length,
      charts: agreements.map(agreementChart),
    },
    live: false,
  });
}

const METHODS = [
  "Conditions are paired by their id, or, where the runs edit the same sites in different ways, by the sites. Only conditions measured in both runs enter; the others are named above. Ranks are by ΔNLL, the largest first; equal values share their mean rank. Agreement is Spearman's ρ, Pearson's correlation of the ranks; its interval is Fisher's z with the standard error of Bonett and Wright (2000), which takes the conditions for an independent sample.",
  "A difference is ΔNLL in the second run minus ΔNLL in the first, block by block on the blocks (by their tokens) that both runs measured; intervals and p values come from the paired t statistic with n − 1 degrees of freedom, p values were adjusted over all conditions compared by the Benjamini–Hochberg procedure. Intervals are each condition's own. Noise in either run lowers ρ: the agreement of a run with itself, half of its blocks against the other half, shows by how much at most, since half a run is noisier than a whole one and runs on the same blocks share their noise.",
];

/** One table; where more than two runs are compared its first column says which two. */
function tableOf(agreements: readonly Agreement[], most: number): Pick<PageData, "columns" | "rows"> {
  const [only, ...more] = agreements;
  if (only === undefined || more.length > 0) return tableOfSeveral(agreements, most);
  return tableData(only.pairs.slice(0, most), columnsOfAgreement(only), pairDecimals(only));
}

function tableOfSeveral(agreements: readonly Agreement[], most: number): Pick<PageData, "columns" | "rows"> {
  const paired = agreements.some(({ unpaired }) => unpaired === null);
  const tables = agreements.map((agreement) => {
    const letters = agreement.runs.map(({ letter }) => letter).join(" ");
    const which: Column<Pair> = {
      title: "runs",
      align: "left",
      expendable: 0,
      text: () => letters,
      key: () => letters,
    };
    return tableData(
      agreement.pairs.slice(0, most),
      [which, ...pairColumns(["1st", "2nd"], paired, evaluatedInAll(agreements))],
      pairDecimals(agreement),
    );
  });
  return { columns: tables[0]?.columns ?? [], rows: tables.flatMap(({ rows }) => rows) };
}
