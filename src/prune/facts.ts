/** Pure: how well a model does on held-out blocks, and what a checkpoint's card says of before and after. */
import type { BakeCard } from "../protocol/messages.ts";
import { markdown } from "../report/formats.ts";
import { counted, fixed, integer, interval, signed } from "../report/numbers.ts";
import { estimate } from "../statistics/effects.ts";
import type { BlockRun } from "../store/block-run.ts";
import type { PathStep, TextLevel, Unedited } from "./path.ts";
import type { FullSettings, PruneTarget } from "./settings.ts";
import type { UnitRow } from "./units.ts";

/** Of effects and levels, for a person. */
export const DECIMALS = 4;
/** Units that a sentence lists. */
const NAMED = 24;

/**
 * @param condition id of what is measured in `run`.
 * @param kept which of its blocks count, by ordinal.
 */
export function levelOf(
  { sums, tokens }: BlockRun,
  condition: string,
  text: string,
  kept: readonly boolean[],
): TextLevel {
  const measured = sums.get(condition);
  if (measured === undefined) return { text, nll: null, ci95: null };
  const counted = measured.nll.filter((_, index) => kept[measured.blocks[index] as number]);
  const { mean, ci95 } = estimate(counted.map((sum) => sum / tokens));
  return { text, nll: mean, ci95 };
}

/** What a text is called: the end of its path, where that tells all of them apart. */
export function titlesOf(texts: readonly string[]): string[] {
  const ends = texts.map((text) => text.split("/").at(-1) ?? text);
  return new Set(ends).size === texts.length ? ends : [...texts];
}

/** 1.08 from bytes: 10⁹ of them. */
export const gigabytes = (bytes: number): string => (bytes / 1e9).toPrecision(3);

export function levelText({ nll, ci95 }: TextLevel): string {
  if (nll === null) return "failed";
  return `${fixed(nll, DECIMALS)}${ci95 === null ? "" : ` [${fixed(ci95[0], DECIMALS)}, ${fixed(ci95[1], DECIMALS)}]`}`;
}

export function effectText({ delta_nll, ci95 }: PathStep["held_out"][number]): string {
  if (delta_nll === null) return "failed";
  return `${signed(delta_nll, DECIMALS)}${ci95 === null ? "" : ` ${interval(ci95, DECIMALS)}`}`;
}

/** "3 of its layers": reads well of one, too. */
export const countText = (size: number, { many, everywhere }: Pick<UnitRow, "many" | "everywhere">): string =>
  `${size} of its ${many}${everywhere ? " in every layer" : ""}`;

/** What was asked for. */
export function targetText(target: PruneTarget, row: Pick<UnitRow, "many" | "everywhere">): string {
  if ("max_delta_nll" in target) return `a Δ NLL of at most ${target.max_delta_nll} on every text`;
  if ("target_params" in target) return `at most ${integer(target.target_params)} parameters`;
  return `${countText(target.remove, row)} removed`;
}

/** A sentence for each text that repeats what chose, in whole or in part. @param titles of the texts. */
export function repeatSentences(held_out: PathStep["held_out"], titles: readonly string[]): string[] {
  return held_out.flatMap(({ repeats, left_out }, index) => {
    const title = titles[index];
    if (repeats)
      return `All held-out blocks of ${title} repeat text that chose: its numbers are no independent measurement.`;
    if (left_out === 0) return [];
    return `Left out, since they repeat text that chose: ${counted(left_out, "held-out block")} of ${title}.`;
  });
}

/** The section "before and after" of the card of a step's checkpoint. */
export function cardOf(
  { settings, row }: { readonly settings: FullSettings; readonly row: UnitRow },
  before: Unedited,
  step: PathStep,
): BakeCard {
  const titles = titlesOf(settings.texts);
  const sizes =
    before.weights === null || step.weights === null
      ? []
      : [
          {
            what: "parameters",
            before: integer(before.weights.parameters),
            after: integer(step.weights.parameters),
          },
          {
            what: "GB of weights",
            before: gigabytes(before.weights.bytes),
            after: gigabytes(step.weights.bytes),
          },
        ];
  const levels = titles.map((title, index) => ({
    what: `NLL, ${markdown(title)} (nats a token)`,
    before: levelText(before.nll[index] as TextLevel),
    after: levelText(step.nll[index] as TextLevel),
  }));
  return { rows: [...sizes, ...levels], paragraphs: paragraphsOf(settings, row, step, titles) };
}

function paragraphsOf(
  { seq_len, blocks, held_out_blocks, seed, target, calibration }: FullSettings,
  row: UnitRow,
  { size, removed, held_out }: PathStep,
  titles: readonly string[],
): string[] {
  const which =
    removed.length > NAMED ? "sparkablate_bake.json lists them" : removed.map((id) => `\`${id}\``).join(", ");
  const named = titles.map(markdown).join(", ");
  const effects = held_out.map((effect, index) => `${markdown(titles[index] ?? "")} ${effectText(effect)}`);
  return [
    `Removed: ${countText(size, row)} (${which}).`,
    ...(calibration === null
      ? []
      : [
          `In the place of each stands its mean write over ${markdown(titlesOf([calibration])[0] ?? "")}, of the unedited model: a constant in ${row.everywhere ? "a bias of its layer" : "an MLP's bias below"}.`,
        ]),
    `Chosen by a search on ${counted(blocks, "block")} of ${integer(seq_len)} tokens of each text (${named}; seed ${seed}) for the smallest Δ NLL. ` +
      "It is the best set that the search found, not proved to be the best there is.",
    `Measured on ${integer(held_out_blocks)} other blocks of each text, which had no part in the choice. Δ NLL, block by block, with 95 % intervals: ${effects.join("; ")}. ` +
      "The intervals in the table are each model's own, over blocks: they do not tell how sure the difference is.",
    ...repeatSentences(held_out, titles.map(markdown)),
    "max_delta_nll" in target
      ? `Tested: on every text the one-sided 95 % bound of Δ NLL is at most ${target.max_delta_nll}.`
      : "How much to remove was given beforehand: nothing was tested.",
    "NLL on these texts does not show what it costs elsewhere: judge the checkpoint on the task that you have.",
  ];
}
