/** `sparkablate report DIR --tokens CONDITION`. */
import { SparkablateError } from "../errors.ts";
import { tokensRecord, tokensTable } from "../report/tokens/formats.ts";
import { type TokenRun, tokenReport } from "../results/tokens.ts";
import { configOfRun } from "../run/earlier-run.ts";
import { type ReportedRun, readPacked } from "../store/run-directory.ts";
import { readTokenRun } from "../store/token-run.ts";
import type { CommonFlags, WorkerFlags } from "./common.ts";
import { attended } from "./sweep.ts";
import { print, printJson, say, tableOptions, Words } from "./terminal.ts";

/** Single tokens shown where no number was asked for. */
const DEFAULT_TOP = 20;

interface TokenFlags extends CommonFlags, WorkerFlags {
  readonly format?: string;
  readonly top?: number;
  readonly plots?: boolean;
}

/**
 * Where a condition of the run hurts; what is not kept of its tokens is measured first, by a worker.
 * @param writePage brings the run's page up to date; its path.
 */
export async function showTokens(
  directory: string,
  condition: string,
  flags: TokenFlags,
  writePage: (run: ReportedRun) => string,
): Promise<void> {
  const { format = "table", quiet, json, plots, top } = flags;
  if (format !== "table" && format !== "json")
    throw new SparkablateError(
      "usage",
      `--format ${format} cannot be combined with --tokens; allowed: table, json`,
    );
  const run = readTokenRun(directory, condition) ?? (await measured(directory, condition, flags));
  const report = tokenReport(run, top ?? DEFAULT_TOP);
  if (json || format === "json") printJson(tokensRecord(report), 2);
  else if (!quiet) print(Words.made(tokensTable(report, tableOptions(null))));
  if (plots === false) return;
  const page = writePage(readPacked(directory));
  if (!quiet) say(`page: ${page}`);
}

async function measured(directory: string, condition: string, flags: WorkerFlags): Promise<TokenRun> {
  const config = configOfRun(directory, readPacked(directory).facts);
  await attended(config, flags, (controller, options) => controller.keepTokens(config, condition, options));
  const run = readTokenRun(directory, condition);
  if (run === null) throw new SparkablateError("internal", `${condition}: no values a token were kept`);
  return run;
}
