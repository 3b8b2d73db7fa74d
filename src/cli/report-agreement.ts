/** `sparkablate report DIR DIR…`: how far the rankings of several runs agree. */
import { realpathSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { SparkablateError } from "../errors.ts";
import { type Agreement, agree, type NamedRun } from "../report/agreement/agreement.ts";
import { writeAgreement } from "../report/agreement/files.ts";
import {
  agreementCsv,
  agreementJson,
  agreementMarkdown,
  agreementTable,
} from "../report/agreement/formats.ts";
import { readBlockRun } from "../store/block-run.ts";
import { type Format, formatOf, type ReportFlags, sayFiles } from "./report-flags.ts";
import { print, tableOptions, Words } from "./terminal.ts";

const LETTERS = "ABCDEFGH";

export async function showAgreement(directories: readonly string[], flags: ReportFlags): Promise<void> {
  const runs = readAll(directories);
  const agreements = runs.flatMap((first, index) =>
    runs.slice(index + 1).map((second) => agree(first, second)),
  );
  const format = formatOf(flags);
  if (format !== null) print(Words.made(PRINTERS[format](runs, agreements, flags.top ?? null)));
  if (flags.plots === false) return;
  const { plots, page } = await writeAgreement(runs, agreements);
  sayFiles(flags, plots, page);
}

type Printer = (runs: readonly NamedRun[], agreements: readonly Agreement[], top: number | null) => string;

const PRINTERS: Readonly<Record<Format, Printer>> = {
  table: (runs, agreements, top) => agreementTable(runs, agreements, tableOptions(top)),
  csv: (_, agreements, top) => agreementCsv(agreements, top),
  md: agreementMarkdown,
  json: agreementJson,
};

function readAll(directories: readonly string[]): NamedRun[] {
  if (directories.length > LETTERS.length) {
    throw new SparkablateError(
      "usage",
      `${directories.length} directories; allowed: ${LETTERS.length} at a time`,
    );
  }
  const runs = directories.map((directory) => readBlockRun(directory));
  const seen = new Map<string, string>();
  for (const directory of directories) {
    const real = realpathSync(directory);
    const before = seen.get(real);
    if (before !== undefined) {
      throw new SparkablateError("usage", `${before} and ${directory} are the same directory`);
    }
    seen.set(real, directory);
  }
  const names = shortNames(directories);
  return runs.map((run, index) => ({
    run,
    letter: LETTERS[index] as string,
    name: names[index] as string,
    directory: directories[index] as string,
  }));
}

/** The directories' own names, with as many of those above as it takes to tell them apart. */
function shortNames(directories: readonly string[]): string[] {
  const paths = directories.map((directory) => resolve(directory));
  const name = (path: string, parents: number): string =>
    parents === 0 || dirname(path) === path
      ? basename(path)
      : join(name(dirname(path), parents - 1), basename(path));
  for (let parents = 0; ; parents++) {
    const names = paths.map((path) => name(path, parents));
    if (new Set(names).size === names.length) return names;
  }
}
