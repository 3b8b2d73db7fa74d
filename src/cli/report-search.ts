/** `sparkablate report` of a search's directory: its path again, and its page. */
import { printableJson } from "../printable.ts";
import { readSearch } from "../prune/read.ts";
import { stepColumns } from "../prune/report/columns.ts";
import { writeSearchReport } from "../prune/report/files.ts";
import { cautions, resultSentence } from "../prune/report/page.ts";
import { csv, markdown, markdownOf } from "../report/formats.ts";
import { described } from "./prune.ts";
import { type Format, formatOf, type ReportFlags, sayFiles } from "./report-flags.ts";
import { print, Words } from "./terminal.ts";

/** @throws SparkablateError input_missing where the search has not ended. */
export async function showSearch(directory: string, flags: ReportFlags): Promise<void> {
  const search = readSearch(directory);
  const { found } = search;
  const printed: Readonly<Record<Format, () => Words>> = {
    table: () => described(found),
    csv: () => Words.made(pathCsv(found)),
    md: () =>
      Words.made(
        [
          ...[resultSentence(found), ...cautions(found)].flatMap((line) => [markdown(line), ""]),
          ...markdownOf(stepColumns(found), found.steps, 0),
          "",
        ].join("\n"),
      ),
    json: () => Words.made(`${printableJson(found, 1)}\n`),
  };
  const format = formatOf(flags);
  // What fails behind a JSON document would be a second one.
  if (format !== null && format !== "json") print(printed[format]());
  if (flags.plots !== false) {
    const { plots, page } = await writeSearchReport(directory, search);
    sayFiles(flags, plots, page);
  }
  if (format === "json") print(printed.json());
}

/** A line for each step and text, every digit. */
function pathCsv({ steps, chosen }: ReturnType<typeof readSearch>["found"]): string {
  const records = steps.flatMap(({ size, removed, nested, weights, held_out, nll }) =>
    held_out.map(({ text, blocks, delta_nll, se, ci95, upper95 }, index) => ({
      ...{ size, removed: removed.join(" "), nested, written: size === chosen },
      ...{ parameters: weights?.parameters ?? null, bytes: weights?.bytes ?? null },
      ...{ text, blocks, nll: nll[index]?.nll ?? null, delta_nll, se },
      ...{ ci95_low: ci95?.[0] ?? null, ci95_high: ci95?.[1] ?? null, upper95 },
    })),
  );
  return csv(Object.keys(records[0] ?? {}), records);
}
