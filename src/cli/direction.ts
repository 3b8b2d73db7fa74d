/** `sparkablate direction`: finds a direction that tells two sets of prompts apart. */
import { extname, resolve } from "node:path";
import { Command } from "commander";
import { getBorderCharacters, table as tableText } from "table";
import { DEFAULT_MAX_KL, type ScoreEstimate, weaker } from "../directions/choice.ts";
import { checkSides, type DirectionTable, readPrompts, type ScoredCandidate } from "../directions/find.ts";
import { SparkablateError } from "../errors.ts";
import { printable } from "../printable.ts";
import { requirePlaces, writeTogether } from "../store/together.ts";
import {
  type CommonFlags,
  controllerFor,
  TEMPLATE_DATE,
  type WorkerFlags,
  withOutput,
  withWorker,
} from "./common.ts";
import { watched } from "./interrupt.ts";
import { configFromFlags, type ModelFlags, modelSection, withModel } from "./model-flags.ts";
import { print, printJson, say, styled, Words } from "./terminal.ts";

const TOP = 8;

interface DirectionFlags extends CommonFlags, WorkerFlags, ModelFlags {
  readonly positive: string;
  readonly negative: string;
  readonly out: string;
  readonly chatTemplate?: true;
  readonly templateDate?: string;
  readonly endPositions: string[];
  readonly answerTokens?: string[];
  readonly answerTokensNegative?: string[];
  readonly maxKl: string;
  readonly seed: string;
  readonly force?: true;
}

export function directionCommand(): Command {
  return withModel(withWorker(withOutput(new Command("direction"))))
    .requiredOption("--positive <file>", "file of 8 or more prompts that have the property, one per line")
    .requiredOption("--negative <file>", "file of 8 or more prompts that do not")
    .requiredOption(
      "--out <file>",
      "where to write the direction (.safetensors); the table goes beside it, as .json",
    )
    .option("--chat-template", "put each prompt into the model's chat template, as a user's message")
    .option("--template-date <day>", TEMPLATE_DATE)
    .option("--end-positions <numbers...>", "token positions, counted from the end: 1 is the last", ["1"])
    .option("--answer-tokens <tokens...>", "measure the contrast by the odds of these next tokens …")
    .option("--answer-tokens-negative <tokens...>", "… against these (default: from the last layer's stream)")
    .option(
      "--max-kl <nats>",
      "largest KL that projecting it out may cost on the negative prompts",
      String(DEFAULT_MAX_KL),
    )
    .option("--seed <number>", "seed of the held-out prompts and the random controls", "0")
    .option("--force", "overwrite --out and the table beside it")
    .addHelpText(
      "after",
      `
A third of the prompts is held out. Candidates are differences of means over the other prompts, and are scored on
the held-out ones. docs/directions.md explains the columns.

Example:
  sparkablate direction -m builtin:smollm2-135m --positive docs/examples/french.txt --negative docs/examples/english.txt --out french.safetensors`,
    )
    .action(direction);
}

async function direction(flags: DirectionFlags): Promise<void> {
  const out = outputPaths(flags);
  const positive = readPrompts(flags.positive);
  const negative = readPrompts(flags.negative);
  checkSides(positive, negative);
  const { model } = configFromFlags({ model: modelSection(flags) });
  await using controller = controllerFor(flags);
  const { table, file } = await watched(controller, flags, (on) =>
    controller.direction(model, {
      positive,
      negative,
      chat_template: flags.chatTemplate ?? false,
      template_date: flags.templateDate,
      end_positions: flags.endPositions.flatMap((text) => text.split(",")).map(endPosition),
      answer_tokens: answerTokens(flags),
      max_kl: number("--max-kl", flags.maxKl, 0, 1e6),
      seed: whole("--seed", flags.seed, 0, Number.MAX_SAFE_INTEGER),
      on,
    }),
  );
  const parts = [
    { path: out.table, bytes: `${JSON.stringify(table, null, 1)}\n` },
    { path: out.direction, bytes: file },
  ];
  writeTogether(parts, flags.force ?? false);
  if (flags.json) printJson(table);
  else print(Words.made(describe(table)));
  if (!flags.quiet) conclude(table, out);
  if (file === null) process.exitCode = 1;
}

interface OutputPaths {
  readonly direction: string;
  readonly table: string;
}

function outputPaths({ out, force }: DirectionFlags): OutputPaths {
  if (extname(out) !== ".safetensors")
    throw new SparkablateError("usage", `--out ${out}: give a name that ends in .safetensors`);
  const direction = resolve(out);
  const paths = { direction, table: `${direction.slice(0, -".safetensors".length)}.json` };
  requirePlaces(Object.values(paths), force ?? false);
  return paths;
}

function answerTokens({ answerTokens: positive, answerTokensNegative: negative }: DirectionFlags) {
  if (positive === undefined && negative === undefined) return undefined;
  if (positive !== undefined && negative !== undefined) return { positive, negative };
  throw new SparkablateError("usage", "give --answer-tokens and --answer-tokens-negative together");
}

function number(flag: string, written: string, least: number, most: number): number {
  const value = written.trim() === "" ? Number.NaN : Number(written);
  if (value >= least && value <= most) return value;
  throw new SparkablateError("usage", `${flag} ${written}; allowed: ${least} to ${most}`);
}

function whole(flag: string, written: string, least: number, most: number): number {
  const value = number(flag, written, least, most);
  if (Number.isInteger(value)) return value;
  throw new SparkablateError("usage", `${flag} ${written}; allowed: a whole number`);
}

const endPosition = (written: string): number => whole("--end-positions", written, 1, 1024);

/** The best candidates by the rule's score: first those that may be chosen, then those that cost too much. */
export function describe({ candidates, chosen, unit, contrast, max_kl }: DirectionTable): string {
  const affordable = ({ kl }: ScoredCandidate): number => (kl.value <= max_kl ? 1 : 0);
  const score = (candidate: ScoredCandidate): number => weaker(candidate) ?? Number.NEGATIVE_INFINITY;
  const ranked = [...candidates].sort((a, b) => affordable(b) - affordable(a) || score(b) - score(a) || 0);
  const shown = ranked.slice(0, TOP);
  const rows = shown.map((candidate) => [
    isChosen(candidate, chosen) ? "▸" : "",
    String(candidate.layer),
    String(-candidate.position),
    candidate.norm.toPrecision(3),
    withError(candidate.lowered),
    withError(candidate.raised),
    withError(candidate.kl, 3),
    candidate.split_half_cosine.toFixed(2),
    candidate.bootstrap_cosine_low.toFixed(2),
  ]);
  const best = (name: "lowered" | "raised"): string =>
    figure(Math.max(...candidates.map(({ random }) => random[name]?.value ?? Number.NEGATIVE_INFINITY)));
  const heading = ["", "layer", "token", "norm", "lowered", "raised", "KL", "halves", "bootstrap"];
  const control = ["", "random", "", "", `≤ ${best("lowered")}`, `≤ ${best("raised")}`, "", "", ""];
  const body = tableText([heading.map((text) => styled("bold", text)), ...rows, control], {
    border: getBorderCharacters("void"),
    columnDefault: { paddingLeft: 0, paddingRight: 2, alignment: "right" },
    drawHorizontalLine: () => false,
  });
  return `${body}${shown.length} of ${candidates.length} candidates; ${printable(contrast)} in ${printable(unit)}, ± standard error; KL in nats, at most ${max_kl} for a choice; random: the best of as many random directions
`;
}

const isChosen = ({ layer, position }: ScoredCandidate, chosen: DirectionTable["chosen"]): boolean =>
  chosen?.layer === layer && chosen.position === position;

const figure = (value: number): string => (Number.isFinite(value) ? value.toFixed(2) : "–");

const withError = (estimate: ScoreEstimate | null, digits = 2): string =>
  estimate === null ? "–" : `${estimate.value.toFixed(digits)} ± ${estimate.se.toFixed(digits)}`;

function conclude({ chosen, max_kl }: DirectionTable, { direction, table }: OutputPaths): void {
  say(`the table of all candidates: ${table}`);
  if (chosen === null) {
    say(
      `no candidate both lowers and raises the contrast at a KL of at most ${max_kl}: no direction was written. Try more prompts, other --end-positions, or a higher --max-kl.`,
    );
    return;
  }
  say(`layer ${chosen.layer}, token ${-chosen.position}: ${direction}`);
  if (!chosen.beyond_controls) {
    say(
      "Its scores are not clearly above those of random directions: treat it as noise until more prompts show otherwise.",
    );
  }
}
