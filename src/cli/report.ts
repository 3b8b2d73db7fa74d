/** `sparkablate report`, and what `run` and `quickstart` end with. */
import { statSync } from "node:fs";
import { Command, InvalidArgumentError, Option } from "commander";
import type { RunConfig } from "../config/load.ts";
import { neighbour } from "../config/paths.ts";
import { SparkablateError } from "../errors.ts";
import { isSearch } from "../prune/read.ts";
import { toCsv, toJson, toMarkdown } from "../report/formats.ts";
import { auditModes, type ModeAudit } from "../report/modes/audit.ts";
import { auditMarkdown, auditRecord, auditTable } from "../report/modes/formats.ts";
import { writePage, writePlots } from "../report/report.ts";
import { surveyOf } from "../report/survey.ts";
import { renderTable } from "../report/table.ts";
import type { Selection } from "../results/selection.ts";
import { confirmation } from "../run/confirm.ts";
import { configOfRun } from "../run/earlier-run.ts";
import { readBlockRun } from "../store/block-run.ts";
import { hasFailures, isFailed, type ReportedRun, readPacked } from "../store/run-directory.ts";
import { readTokenRuns } from "../store/token-run.ts";
import { type WorkerFlags, withOutput, withWorker } from "./common.ts";
import { showAgreement } from "./report-agreement.ts";
import {
  FORMATS,
  type Format,
  formatOf,
  type ReportFlags,
  sayFiles,
  selectionOfFlags,
} from "./report-flags.ts";
import { showTokens } from "./report-tokens.ts";
import { type SweepFlags, sweep } from "./sweep.ts";
import { print, tableOptions, Words } from "./terminal.ts";

interface ReportCommandFlags extends ReportFlags, WorkerFlags {
  readonly confirm?: number;
  readonly tokens?: string;
  readonly watch?: true;
  readonly port?: number;
}

export function reportCommand(): Command {
  const positive = wholeNumber(Number.POSITIVE_INFINITY, "up");
  return withWorker(withOutput(new Command("report")))
    .argument(
      "<directories...>",
      "run directories, finished or running; several are compared. Or a search's, of 'sparkablate prune'",
    )
    .addOption(new Option("--format <format>", "what to print on stdout (default: table)").choices(FORMATS))
    .option("--top <count>", "show only this many conditions, those with the largest Δ NLL", positive)
    .option(
      "--bottom <count>",
      "show only this many, those with the smallest Δ NLL: below 0, removing them helped",
      positive,
    )
    .option(
      "--sort <column>",
      "order the table by this column: delta_nll (default), |delta_nll|, q, layer, kl, …",
    )
    .option("--no-plots", "leave DIR/plots and DIR/report.html as they are")
    .option(
      "--confirm <count>",
      "measure this many of the largest again, on blocks that the run did not use",
      positive,
    )
    .option(
      "--tokens <condition>",
      "the tokens that this condition (its id) hurts most, and its effect by position and frequency",
    )
    .option("--watch", "serve a live page of a running sweep on this machine, until Ctrl-C")
    .option(
      "--port <number>",
      "the live page's port (default: any free one)",
      wholeNumber(65_535, "to 65535"),
    )
    .addHelpText(
      "after",
      `
This needs neither Python nor a worker, with two exceptions: --confirm, which writes to DIR-confirm-COUNT, and the first
--tokens of a condition, which measures it again and keeps the values in DIR. --json is short for --format json.

Examples:
  sparkablate report results/smoke_test
  sparkablate report results/heads --top 20 --format csv > heads.csv
  sparkablate report results/heads --bottom 10
  sparkablate report results/heads --sort layer
  sparkablate report results/heads --confirm 10
  sparkablate report results/smoke_test --tokens L0.layer.skip
  sparkablate report results/heads-zero results/heads-mean
  sparkablate report results/heads --watch`,
    )
    .action(report);
}

async function report(directories: string[], flags: ReportCommandFlags): Promise<void> {
  const { format, top, bottom, sort, confirm, tokens, watch, port, worker } = flags;
  for (const path of directories) requireDirectory(path, watch ?? false);
  if (directories.length > 1 || watch || tokens !== undefined) directories.forEach(requireRun);
  const [directory = "", ...others] = directories;
  if (top !== undefined) refuseTogether("--top", { "--bottom": bottom });
  const selecting = { "--bottom": bottom, "--sort": sort };
  if (others.length > 0) {
    refuseTogether("several directories", {
      ...selecting,
      "--confirm": confirm,
      "--tokens": tokens,
      "--watch": watch,
    });
    return await showAgreement(directories, flags);
  }
  if (watch) {
    refuseTogether("--watch", {
      "--format": format,
      "--top": top,
      ...selecting,
      "--confirm": confirm,
      "--tokens": tokens,
      "--worker": worker,
    });
    // Its server costs every other command 80 ms.
    const { watchRun } = await import("./report-watch.ts");
    return await watchRun(directory, port ?? 0, flags);
  }
  if (port !== undefined) throw new SparkablateError("usage", "--port needs --watch");
  if (tokens !== undefined) {
    refuseTogether("--tokens", { "--confirm": confirm, ...selecting });
    return await showTokens(directory, tokens, flags, (run) => writePageOf(directory, run));
  }
  if (isSearch(directory)) {
    refuseTogether("a search's directory", { "--top": top, ...selecting, "--confirm": confirm });
    const { showSearch } = await import("./report-search.ts");
    return await showSearch(directory, flags);
  }
  const run = readPacked(directory);
  if (confirm === undefined) return await showRun(directory, run, flags);
  const config = confirmation(configOfRun(directory, run.facts), run, confirm);
  process.exitCode = await sweepAndShow(config, flags);
}

/**
 * @param isAwaited the live page waits for a run that is yet to begin; what is no directory never becomes one.
 * @throws SparkablateError input_missing that says what is there instead.
 */
function requireDirectory(path: string, isAwaited: boolean): void {
  if (path === "") throw new SparkablateError("usage", "the path of a run directory is empty");
  const stats = statSync(path, { throwIfNoEntry: false });
  if (stats === undefined && isAwaited) return;
  if (stats === undefined)
    throw new SparkablateError("input_missing", `${path} does not exist${neighbour(path)}`);
  if (!stats.isDirectory())
    throw new SparkablateError("input_missing", `${path} is not a run directory: it is not even a directory`);
}

/** @throws SparkablateError usage for a search's directory, whose runs lie below it. */
function requireRun(path: string): void {
  if (!isSearch(path)) return;
  throw new SparkablateError("usage", `${path} is a search's directory, not a run's`, {
    help: `Name one of its runs: they are in ${path}/steps and ${path}/held-out.`,
  });
}

/** @throws SparkablateError usage for the first option that was given though it does not fit. */
function refuseTogether(what: string, options: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined) throw new SparkablateError("usage", `${name} cannot be combined with ${what}`);
  }
}

/** Runs a sweep, or finishes it, and reports it; 1 where a condition failed. */
export async function sweepAndShow(config: RunConfig, flags: SweepFlags & ReportFlags): Promise<0 | 1> {
  const { dir } = config.output;
  const { model_checked, unchangedSince } = await sweep(config, flags);
  // All rows at once are for those who look at them.
  if (formatOf(flags) === null && flags.plots === false) return hasFailures(dir) ? 1 : 0;
  const run = readPacked(dir);
  await showRun(dir, run, flags, { model_checked }, unchangedSince);
  return run.rows.values().some(isFailed) ? 1 : 0;
}

/**
 * The result on stdout, the plots into the run's directory, and where they are on stderr.
 * @param more further keys of the JSON document.
 * @param unchangedSince as `writePlots` takes it.
 */
async function showRun(
  directory: string,
  run: ReportedRun,
  flags: ReportFlags,
  more: Readonly<Record<string, unknown>> = {},
  unchangedSince?: number,
): Promise<void> {
  const format = formatOf(flags);
  const audit = auditOf(directory, run);
  const show = (): void => {
    if (format !== null) print(Words.made(PRINTERS[format](run, selectionOfFlags(flags), audit, more)));
  };
  // What fails behind a JSON document would be a second one.
  if (format !== "json") show();
  if (flags.plots !== false) {
    const plots = await writePlots(directory, run, audit, unchangedSince);
    sayFiles(flags, plots, writePage(directory, run, audit, readTokenRuns(directory)));
  }
  if (format === "json") show();
}

const auditOf = (directory: string, { rows }: ReportedRun): ModeAudit | null =>
  surveyOf(rows).modes.length > 1 ? auditModes(readBlockRun(directory)) : null;

/** Writes the run's page as it stands; its path. */
const writePageOf = (directory: string, run: ReportedRun): string =>
  writePage(directory, run, auditOf(directory, run), readTokenRuns(directory));

type Printer = (
  run: ReportedRun,
  shown: Selection,
  audit: ModeAudit | null,
  more: Readonly<Record<string, unknown>>,
) => string;

const PRINTERS: Readonly<Record<Format, Printer>> = {
  table({ rows, facts }, shown, audit) {
    const options = { ...tableOptions(shown.top), shown };
    return renderTable(rows, facts, options) + (audit === null ? "" : auditTable(audit, options));
  },
  // One table, of the rows: their ids name the modes.
  csv: ({ rows }, shown) => toCsv(rows, shown),
  md: ({ rows, facts }, shown, audit) =>
    toMarkdown(rows, facts, shown) + (audit === null ? "" : auditMarkdown(audit, shown.top)),
  json: ({ rows, facts }, shown, audit, more) =>
    toJson(rows, facts, shown, { ...more, ...(audit !== null && { modes: auditRecord(audit, shown.top) }) }),
};

const wholeNumber =
  (most: number, allowed: string) =>
  (text: string): number => {
    const value = Number(text);
    if (Number.isInteger(value) && value >= 1 && value <= most) return value;
    throw new InvalidArgumentError(`Give a whole number from 1 ${allowed}.`);
  };
