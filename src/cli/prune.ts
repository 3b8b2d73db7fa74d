/** `sparkablate prune`: a smaller model, and what it costs on blocks that did not choose it. */
import { resolve } from "node:path";
import { type Command as Cli, Command, Option } from "commander";
import { getBorderCharacters, table } from "table";
import { SparkablateError } from "../errors.ts";
import type { OnEvent } from "../events.ts";
import { effectText, gigabytes, levelText, repeatSentences, targetText, titlesOf } from "../prune/facts.ts";
import type { PathStep } from "../prune/path.ts";
import type { Pruned } from "../prune/prune.ts";
import { readSearch } from "../prune/read.ts";
import { writeSearchReport } from "../prune/report/files.ts";
import type { Compensate, PruneTarget } from "../prune/settings.ts";
import { UNITS, type Unit } from "../prune/units.ts";
import { counted, integer, orDash } from "../report/numbers.ts";
import { type CommonFlags, controllerFor, type WorkerFlags, withOutput, withWorker } from "./common.ts";
import { watched } from "./interrupt.ts";
import { type ModelFlags, modelSection, withModel } from "./model-flags.ts";
import { sayFiles } from "./report-flags.ts";
import { lines, print, printJson, type Words } from "./terminal.ts";

const MULTIPLES: Readonly<Record<string, number>> = { K: 1e3, M: 1e6, B: 1e9 };
/** Units that a row of the table lists. */
const NAMED = 8;

interface PruneFlags extends CommonFlags, WorkerFlags, ModelFlags {
  readonly text: string[];
  readonly unit: Unit;
  readonly maxDeltaNll?: string;
  readonly remove?: string;
  readonly align?: string;
  readonly targetParams?: string;
  readonly compensate: Compensate;
  readonly calibration?: string;
  readonly seqLen?: string;
  readonly blocks?: string;
  readonly heldOut?: string;
  readonly batchSize?: string;
  readonly seed?: string;
  readonly freshHoldout?: true;
  readonly out: string;
}

export function pruneCommand(): Cli {
  return withModel(withWorker(withOutput(new Command("prune"))))
    .optionsGroup("Search:")
    .requiredOption("--text <files...>", "texts to choose and to test on: .txt files, each weighs the same")
    .addOption(new Option("--unit <unit>", "what to remove").choices(Object.keys(UNITS)).default("layers"))
    .option(
      "--max-delta-nll <nats>",
      "remove as many as cost no more than this on every text, at 95 % confidence",
    )
    .option("--remove <number>", "or remove this many")
    .option("--target-params <number>", "or as many as leave at most this many parameters, like 100M or 1.2B")
    .addOption(
      new Option(
        "--compensate <what>",
        "what stands in the place of what is removed: nothing, or its mean write",
      )
        .choices(["none", "mean"])
        .default("none"),
    )
    .option("--calibration <text>", "a .txt file of its own, for --compensate mean")
    .option(
      "--align <number>",
      "neurons that remain are a multiple of it, where a layer has 1,024 or more (default: 128)",
    )
    .option("--seq-len <tokens>", "tokens a block (default: 256)")
    .option("--blocks <number>", "blocks of each text that choose (default: 64)")
    .option("--held-out <number>", "other blocks of each text, that test (default: 64)")
    .option("--batch-size <number>", "blocks of each text in a forward pass (default: 4)")
    .option("--seed <number>", "which blocks (default: 0)")
    .option("--fresh-holdout", "test another target on blocks that nobody has seen")
    .requiredOption("--out <directory>", "the search's directory; the checkpoint is DIR/model")
    .addHelpText(
      "after",
      `
Layers go one at a time: all that are left race, the least harmful goes, and what was removed earlier is put back or
swapped where that is better. Of key/value groups every layer loses one at a step, of neurons a sixteenth of its width.
Blocks that choose are never shown as results: the table is measured on others.
Ctrl-C saves; the same command goes on where it stopped.

Examples:
  sparkablate prune -m builtin:smollm2-135m --text novel.txt code.txt --max-delta-nll 0.05 --out pruned
  sparkablate prune -m builtin:smollm2-135m --text novel.txt --remove 4 --out pruned-26
  sparkablate prune -m builtin:smollm2-135m --text novel.txt --target-params 100M --out pruned-100m`,
    )
    .action(prune);
}

async function prune(flags: PruneFlags): Promise<void> {
  const number = (flag: string, value: string | undefined): number | undefined => {
    if (value === undefined) return undefined;
    if (value.trim() === "" || !Number.isFinite(Number(value)))
      throw new SparkablateError("usage", `${flag} ${value}: a number is wanted`);
    return Number(value);
  };
  const stop = new AbortController();
  await using controller = controllerFor(flags);
  const settings = {
    model: modelSection(flags) as unknown as Parameters<typeof controller.prune>[0]["model"],
    texts: flags.text,
    unit: flags.unit,
    target: targetOf({
      max_delta_nll: number("--max-delta-nll", flags.maxDeltaNll),
      remove: number("--remove", flags.remove),
      target_params: parameters(flags.targetParams),
    }),
    compensate: flags.compensate,
    calibration: flags.calibration ?? null,
    align: number("--align", flags.align),
    seq_len: number("--seq-len", flags.seqLen),
    blocks: number("--blocks", flags.blocks),
    held_out_blocks: number("--held-out", flags.heldOut),
    batch_size: number("--batch-size", flags.batchSize),
    seed: number("--seed", flags.seed),
    out: resolve(flags.out),
  };
  const options = { signal: stop.signal, fresh_holdout: flags.freshHoldout ?? false };
  const work = (on: OnEvent) => controller.prune(settings, { ...options, on });
  const found = await watched(controller, flags, work, stop).catch((cause: unknown) => {
    if (!(cause instanceof SparkablateError) || cause.code !== "interrupted") throw cause;
    throw new SparkablateError("interrupted", `interrupted; what was measured is in ${settings.out}`, {
      cause,
      help: "Run the same command again to continue.",
    });
  });
  if (!flags.json) print(described(found));
  const { plots, page } = await writeSearchReport(settings.out, readSearch(settings.out));
  sayFiles(flags, plots, page);
  if (flags.json) printJson(found);
  if (!found.reached) process.exitCode = 1;
}

/** 1.2B, 100M, 124000000. */
function parameters(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  const [, digits, unit = ""] = /^(\d+(?:\.\d+)?)([KMB]?)$/i.exec(value.trim()) ?? [];
  if (digits === undefined)
    throw new SparkablateError(
      "usage",
      `--target-params ${value}: a number of parameters is wanted, like 100M, 1.2B or 124000000`,
    );
  return Math.round(Number(digits) * (MULTIPLES[unit.toUpperCase()] ?? 1));
}

function targetOf(named: Readonly<Record<string, number | undefined>>): PruneTarget {
  const flag = (name: string) => `--${name.replaceAll("_", "-")}`;
  const given = Object.entries(named).filter(([, value]) => value !== undefined);
  const [one, other] = given.map(([name]) => flag(name));
  if (one === undefined)
    throw new SparkablateError(
      "usage",
      "say how much to remove: give --max-delta-nll NATS, --remove N or --target-params P",
    );
  if (other !== undefined)
    throw new SparkablateError("usage", `${one} cannot be combined with ${other}: give one of them`);
  return Object.fromEntries(given) as PruneTarget;
}

/** The table of the path, and what it comes to. */
export function described({ steps, texts, chosen, ...found }: Pruned): Words {
  const rows = steps.map((step) => row(step, step.size === chosen));
  const titles = titlesOf(texts);
  const head = ["", "removed", "parameters", "GB", "which", ...titles.map((title) => `Δ NLL, ${title}`)];
  return lines([
    ...table([head, ...rows], { border: getBorderCharacters("void"), drawHorizontalLine: () => false })
      .trimEnd()
      .split("\n"),
    "",
    ...beforeAndAfter(found, steps, chosen, titles),
    ...words(found, chosen),
    ...repeatSentences(steps[0]?.held_out ?? [], titles),
  ]);
}

const row = ({ size, removed, weights, held_out }: PathStep, isChosen: boolean): string[] => [
  isChosen ? "→" : "",
  String(size),
  orDash(weights?.parameters ?? null, integer),
  orDash(weights?.bytes ?? null, gigabytes),
  removed.length > NAMED ? `${removed.length} ids, in path.json` : removed.join(" "),
  ...held_out.map(effectText),
];

/** The unedited model and what was written, line by line. */
function beforeAndAfter(
  { unedited, checkpoint }: Pick<Pruned, "unedited" | "checkpoint">,
  steps: Pruned["steps"],
  chosen: number | null,
  titles: readonly string[],
): string[] {
  const after = steps.find(({ size }) => size === chosen);
  if (unedited === null || after === undefined) return [];
  const timing = checkpoint?.timing ?? null;
  return [
    ...titles.map((title, index) => {
      const [old, now] = [unedited.nll[index], after.nll[index]];
      return `NLL, ${title}: ${old && levelText(old)} before, ${now && levelText(now)} after.`;
    }),
    ...(timing === null
      ? []
      : [
          `Tokens a second: ${integer(Math.round(timing.before))} before, ${integer(Math.round(timing.after))} after (${timing.batch_size} × ${timing.seq_len} tokens, ${timing.dtype}, ${timing.device}, ${counted(timing.threads, "thread")}).`,
        ]),
  ];
}

function words(
  {
    unit,
    target,
    reached,
    unsettled,
    passes,
    disagreement,
    checkpoint,
  }: Omit<Pruned, "unedited" | "steps" | "texts" | "chosen">,
  chosen: number | null,
): string[] {
  const wanted = targetText(target, UNITS[unit]);
  return [
    "Best sets found of each size, measured on blocks that did not choose them; intervals at 95 %.",
    ...(chosen === null
      ? [`No step is shown to stay within it: nothing is written. Asked for: ${wanted}.`]
      : []),
    ...(chosen !== null && !reached ? [`Out of reach: ${wanted}. The last step found is written.`] : []),
    `The search took ${integer(Math.round(passes.search))} passes over a block; one pass for every candidate would have been ${integer(passes.one_a_candidate)}.`,
    ...(unsettled === 0
      ? []
      : [`${counted(unsettled, "race")} ended unsettled: the smallest mean was taken.`]),
    ...(disagreement === null
      ? []
      : [
          `The texts disagree from ${disagreement.from_size} removed on: ${disagreement.most} suffers more than ${disagreement.least}.`,
        ]),
    ...(checkpoint === null ? [] : [`${checkpoint.directory}: certified with stock transformers.`]),
  ];
}
