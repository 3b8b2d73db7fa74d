/** A comparison of runs for terminals, machines and manuscripts. */

import { printable, printableJson } from "../../printable.ts";
import { csv, markdown, markdownOf } from "../formats.ts";
import { renderColumns, type TableOptions, wrap } from "../table.ts";
import type { Agreement, NamedRun, Pair } from "./agreement.ts";
import { columnsOfAgreement } from "./columns.ts";
import {
  cautions,
  evaluatedIn,
  findings,
  pairDecimals,
  pairLegend,
  runLine,
  tableHeading,
  title,
} from "./words.ts";

/** Disagreements in a terminal that did not ask for a number. */
const DEFAULT_TOP = 10;

export function agreementTable(
  runs: readonly NamedRun[],
  agreements: readonly Agreement[],
  options: TableOptions,
): string {
  const { paint, width, top } = options;
  const line = (text: string) => wrap(printable(text), width);
  const blocks = agreements.map((agreement) => {
    const shown = agreement.pairs.slice(0, top ?? DEFAULT_TOP);
    const legend = pairLegend(shown, evaluatedIn(agreement));
    return [
      ...cautions(agreement).map((text) => paint("yellow", line(text))),
      ...findings(agreement).map(line),
      "",
      line(tableHeading(agreement)),
      renderColumns(shown, columnsOfAgreement(agreement), pairDecimals(agreement), options).trimEnd(),
      ...(shown.length < agreement.pairs.length
        ? [paint("dim", line(`${shown.length} of ${agreement.pairs.length} conditions shown.`))]
        : []),
      ...(legend.length > 0 ? [paint("dim", line(`Flags: ${legend.join("; ")}.`))] : []),
    ].join("\n");
  });
  return `${[paint("bold", line(title(runs))), ...runs.map((run) => line(runLine(run))), "", blocks.join("\n\n")].join("\n")}\n`;
}

/** Every digit, every condition; `top` shortens the pairs alone. */
export function agreementJson(
  runs: readonly NamedRun[],
  agreements: readonly Agreement[],
  top: number | null,
): string {
  const document = {
    runs: runs.map(({ letter, name, directory, run }) => ({ letter, name, directory, run: run.facts })),
    comparisons: agreements.map(({ runs: [a, b], pairs, alone, ...rest }) => ({
      a: a.letter,
      b: b.letter,
      ...rest,
      only_in_a: alone[0],
      only_in_b: alone[1],
      pairs: pairs.slice(0, top ?? pairs.length).map(pairRecord),
    })),
  };
  return `${printableJson(document, 2)}\n`;
}

export function agreementCsv(agreements: readonly Agreement[], top: number | null): string {
  const records = agreements.flatMap(({ runs: [a, b], pairs }) =>
    pairs
      .slice(0, top ?? pairs.length)
      .map((pair) => ({ a: a.name, b: b.name, ...flatten(pairRecord(pair)) })),
  );
  return csv(Object.keys(records[0] ?? {}), records);
}

export function agreementMarkdown(
  runs: readonly NamedRun[],
  agreements: readonly Agreement[],
  top: number | null,
): string {
  const paragraph = (text: string) => [markdown(text), ""];
  const parts = agreements.flatMap((agreement) => {
    const columns = columnsOfAgreement(agreement).filter(({ expendable }) => expendable !== null);
    const shown = agreement.pairs.slice(0, top ?? agreement.pairs.length);
    return [
      ...[...cautions(agreement), ...findings(agreement)].flatMap(paragraph),
      `### ${markdown(tableHeading(agreement))}`,
      "",
      ...markdownOf(columns, shown, pairDecimals(agreement)),
      "",
    ];
  });
  return [
    `## ${markdown(title(runs))}`,
    "",
    ...runs.flatMap((run) => paragraph(runLine(run))),
    ...parts,
  ].join("\n");
}

type PairRecord = ReturnType<typeof pairRecord>;
type Side = PairRecord["a"];

export function pairRecord({ site, rows, ranks, difference, q, distinguishable, flags }: Pair) {
  const side = (index: 0 | 1) => {
    const { condition, delta_nll, se, ci95, distinguishable } = rows[index];
    return { condition, delta_nll, se, ci95, distinguishable, rank: ranks[index] };
  };
  return {
    site,
    a: side(0),
    b: side(1),
    difference: difference?.mean ?? null,
    se: difference?.se ?? null,
    ci95: difference?.ci95 ?? null,
    p: difference?.p ?? null,
    q,
    distinguishable,
    blocks: difference?.n ?? null,
    flags,
  };
}

/** One level: `a.rank` → `a_rank`; an interval becomes two columns, a list is joined. */
function flatten({ a, b, flags, ci95, ...rest }: PairRecord): Record<string, unknown> {
  const ends = (interval: PairRecord["ci95"], prefix: string) => ({
    [`${prefix}ci95_low`]: interval?.[0] ?? null,
    [`${prefix}ci95_high`]: interval?.[1] ?? null,
  });
  const side = ({ ci95: own, ...columns }: Side, prefix: string) => ({
    ...Object.fromEntries(Object.entries(columns).map(([key, value]) => [`${prefix}_${key}`, value])),
    ...ends(own, `${prefix}_`),
  });
  const { site, difference, ...tests } = rest;
  return {
    site,
    ...side(a, "a"),
    ...side(b, "b"),
    difference,
    ...ends(ci95, ""),
    ...tests,
    flags: flags.join("; "),
  };
}
