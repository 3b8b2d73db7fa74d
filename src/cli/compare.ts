/** `sparkablate compare`: greedy texts with and without an ablation, side by side. */
import { Command } from "commander";
import { getBorderCharacters, table } from "table";
import { asksFor } from "../config/modes.ts";
import { readPrompts } from "../directions/find.ts";
import { SparkablateError } from "../errors.ts";
import { printable, printableLines } from "../printable.ts";
import type { ComparedPrompt, ComparedText, Comparison } from "../run/compare.ts";
import {
  type CommonFlags,
  calibrationSection,
  collect,
  controllerFor,
  refuseMean,
  TEMPLATE_DATE,
  type WorkerFlags,
  withOutput,
  withWorker,
} from "./common.ts";
import { eachOption } from "./condition-flags.ts";
import { watched } from "./interrupt.ts";
import {
  configFromFlags,
  type EditFlags,
  editSection,
  type ModelFlags,
  modelSection,
  withEdits,
  withModel,
} from "./model-flags.ts";
import { print, printJson, styled, Words } from "./terminal.ts";

const DEFAULT_WIDTH = 100;
/** Bytes of an argument that are not UTF-8 reach us as this character. */
const REPLACEMENT = "\ufffd";

interface CompareFlags extends CommonFlags, WorkerFlags, ModelFlags, EditFlags {
  readonly prompt: string[];
  readonly prompts: string[];
  readonly calibration?: string;
  readonly maxNewTokens: string;
  readonly chatTemplate?: true;
  readonly templateDate?: string;
}

export function compareCommand(): Command {
  return withEdits(withModel(withWorker(withOutput(new Command("compare")))))
    .option("--calibration <text>", "a .txt file over which --mode mean takes its means")
    .addOption(eachOption())
    .optionsGroup("Prompts:")
    .option("--prompt <text>", "a prompt; may be repeated", collect, [])
    .option("--prompts <file>", "a file of prompts, one per line; may be repeated", collect, [])
    .option("--max-new-tokens <number>", "most tokens to add to each prompt", "64")
    .option("--chat-template", "put each prompt into the model's chat template, as a user's message")
    .option("--template-date <day>", TEMPLATE_DATE)
    .addHelpText(
      "after",
      `
--kind and --direction together make one condition; every --condition adds another. All are compared with
the unedited model. ▸ marks where a text departs from the unedited model's.

Examples:
  sparkablate compare -m builtin:smollm2-135m --kind head --layer 14 --heads 3 7 --prompt "The capital of France is"
  sparkablate compare -m builtin:smollm2-135m --condition L0.layer.skip --condition L2..4.mlp.zero --prompt "Once upon a time"`,
    )
    .action(compare);
}

async function compare(flags: CompareFlags): Promise<void> {
  const { calibration } = flags;
  const { ablation, flags: names } = editSection(flags);
  const config = configFromFlags(
    { model: modelSection(flags), ablation, eval: calibrationSection(calibration) },
    names,
  );
  if (calibration === undefined && asksFor(config.ablation, "mean")) refuseMean();
  requireBytes(flags.prompt);
  const prompts = [...flags.prompt, ...flags.prompts.flatMap((path) => readPrompts(path).prompts)];
  if (prompts.length === 0)
    throw new SparkablateError("usage", "there is no prompt: give one with --prompt or --prompts");
  const max_new_tokens = Number(flags.maxNewTokens);
  if (!Number.isInteger(max_new_tokens) || max_new_tokens < 1 || max_new_tokens > 65_536) {
    throw new SparkablateError("usage", `--max-new-tokens ${flags.maxNewTokens}; allowed: 1 to 65536`);
  }
  await using controller = controllerFor(flags);
  const comparison = await watched(controller, flags, (on) =>
    controller.compare(config, {
      prompts,
      max_new_tokens,
      chat_template: flags.chatTemplate ?? false,
      template_date: flags.templateDate,
      on,
    }),
  );
  const options = { width: process.stdout.columns || DEFAULT_WIDTH, paint: styled };
  if (flags.json) printJson(comparison);
  else print(Words.made(render(comparison, options)));
  const failed = comparison.prompts.some(({ texts }) => texts.some(({ error }) => error !== null));
  if (failed) process.exitCode = 1;
}

function requireBytes(prompts: readonly string[]): void {
  if (!prompts.some((prompt) => prompt.includes(REPLACEMENT))) return;
  throw new SparkablateError("usage", "--prompt contains bytes that are not UTF-8 (or U+FFFD)", {
    help: "Set the terminal to UTF-8, or give the prompt in a UTF-8 file with --prompts.",
  });
}

type Paint = (style: "bold" | "dim" | "red", text: string) => string;

interface RenderOptions {
  readonly width: number;
  readonly paint: Paint;
}

/** One two-column table a prompt and condition: left the unedited model, right the edited one. */
export function render({ prompts }: Comparison, options: RenderOptions): string {
  return `${prompts.map((prompt) => renderPrompt(prompt, options)).join("\n\n")}\n`;
}

function renderPrompt({ prompt, texts }: ComparedPrompt, options: RenderOptions): string {
  const [baseline, ...edited] = texts;
  if (baseline === undefined) return "";
  const heading = options.paint("bold", `» ${printable(prompt.replaceAll(/\r?\n/g, " "))}`);
  return [heading, ...edited.map((text) => pair(baseline, text, options))].join("\n");
}

function pair(baseline: ComparedText, edited: ComparedText, { width, paint }: RenderOptions): string {
  // Three borders and a space on both sides of each text.
  const column = Math.max(10, Math.floor((width - 7) / 2));
  const at = edited.agreement?.identical === false ? edited.agreement.characters : null;
  return table(
    [
      [paint("dim", "unedited"), paint("dim", printable(edited.condition))],
      [marked(baseline, at, paint), marked(edited, at, paint)],
      [paint("dim", ending(baseline)), paint("dim", [verdict(edited), ending(edited)].join("; "))],
    ],
    {
      border: getBorderCharacters("norc"),
      columns: [0, 1].map(() => ({ width: column, wrapWord: true })),
    },
  ).trimEnd();
}

/** @param at characters before the first that differs; null: none does. */
function marked({ text, error }: ComparedText, at: number | null, paint: Paint): string {
  if (error !== null) return paint("red", printable(`failed (${error.code}): ${error.message}`));
  if (at === null) return printableLines(text);
  const characters = [...text];
  const same = characters.slice(0, at).join("");
  const different = characters.slice(at).join("");
  return `${printableLines(same)}${paint("red", `▸${printableLines(different)}`)}`;
}

function verdict({ agreement }: ComparedText): string {
  if (agreement === null) return "not compared";
  return agreement.identical ? "identical" : `the same for ${tokens(agreement.tokens)}`;
}

const ending = ({ ids, stopped }: ComparedText): string =>
  `${tokens(ids.length)}${stopped ? ", ended by the model" : ""}`;

const tokens = (count: number): string => (count === 1 ? "1 token" : `${count} tokens`);
