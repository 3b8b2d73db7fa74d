/** A search's path → its chart: quality on held-out blocks against parameters, a line for each text. */
import type { CurveChart, CurvePoint } from "../../report/chart.ts";
import { integer } from "../../report/numbers.ts";
import { place, type Scale, scaleBetween, scaleFor } from "../../report/scale.ts";
import { effectText, gigabytes, titlesOf } from "../facts.ts";
import type { Pruned } from "../prune.ts";
import type { FinishedSearch } from "../read.ts";
import { UNITS } from "../units.ts";

const UNITS_OF_PARAMETERS = [
  [1e9, "billions"],
  [1e6, "millions"],
  [1e3, "thousands"],
  [1, ""],
] as const;

/** null: no step was found. */
export function searchChart({ found, settings, facts }: FinishedSearch): CurveChart | null {
  const { steps, texts, target, chosen } = found;
  if (steps.length === 0) return null;
  const effects = steps.flatMap(({ held_out }) => held_out.flatMap(({ delta_nll }) => delta_nll ?? []));
  const limit = "max_delta_nll" in target ? target.max_delta_nll : null;
  const ends = steps.flatMap(({ held_out }) => held_out.flatMap(({ ci95 }) => ci95 ?? []));
  const scale = scaleFor(effects, [...effects, ...ends, ...(limit === null ? [] : [limit])], false);
  const { many } = UNITS[found.unit];
  const size = sizesOf(found);
  const last = steps.at(-1);
  return {
    type: "curves",
    name: "path",
    title: `What ${many} cost: Δ NLL against ${size.what}`,
    subtitle: [
      `${facts.model}, ${facts.numerics.dtype}`,
      `${settings.held_out_blocks} held-out blocks of ${integer(settings.seq_len)} tokens of each text`,
    ],
    legend: [],
    notes: [
      "Bands are 95 % intervals, paired by block, of each step alone; blocks that chose the sets are not shown.",
      "On the right is the unedited model. Best sets found of each size, not proved to be the best.",
      ...(chosen === null ? [] : ["Large signs: the checkpoint that was written."]),
      ...(scale.linear_within === null
        ? []
        : [`Scale (symlog): linear within about ±${scale.linear_within}, logarithmic beyond.`]),
    ],
    description: `${steps.length} sizes; with ${last?.size} removed: ${titlesOf(texts)
      .map((title, index) => `${title} ${last?.held_out[index] ? effectText(last.held_out[index]) : ""}`)
      .join(", ")}.`,
    width: 760,
    height: 470,
    scale,
    across: size.axis,
    x: size.title,
    y: "Δ NLL (nats per token)",
    lines: titlesOf(texts),
    points: texts.flatMap((_, line) => pointsOf(found, line, scale, size.of)),
    limit: limit === null ? null : { at: place(scale, limit), label: `at most ${limit} was asked for` },
  };
}

/** From the smallest model to the unedited one. */
function pointsOf(
  { steps, texts, chosen }: Pruned,
  line: number,
  scale: Scale,
  sizeOf: (step: number) => number,
): CurvePoint[] {
  const title = titlesOf(texts)[line] ?? "";
  const measured = steps.flatMap(({ size, held_out, weights }, index): CurvePoint[] => {
    const effect = held_out[line];
    if (effect?.delta_nll == null) return [];
    return [
      {
        line,
        x: sizeOf(index),
        y: place(scale, effect.delta_nll),
        low: effect.ci95 && place(scale, effect.ci95[0]),
        high: effect.ci95 && place(scale, effect.ci95[1]),
        chosen: size === chosen,
        hover: [
          `${title}, ${size} removed`,
          `Δ NLL ${effectText(effect)}`,
          ...(weights === null
            ? []
            : [`${integer(weights.parameters)} parameters, ${gigabytes(weights.bytes)} GB`]),
        ],
      },
    ];
  });
  const unedited = { line, x: sizeOf(-1), y: 0, low: null, high: null, chosen: false };
  return [...measured, { ...unedited, hover: [`${title}, unedited`] }].sort((a, b) => a.x - b.x);
}

/** The horizontal axis: parameters where they are known, else what is left to remove. */
function sizesOf({ steps, unedited, unit }: Pruned): {
  what: string;
  title: string;
  axis: Scale;
  /** Of a step, −1 for the unedited model. */
  of: (step: number) => number;
} {
  const known = [unedited, ...steps].map((one) => one?.weights?.parameters);
  if (known.some((count) => count === undefined)) {
    const of = (step: number) => 0 - (steps[step]?.size ?? 0);
    const axis = scaleBetween(of(steps.length - 1), 0);
    const { many } = UNITS[unit];
    return { what: "how many are removed", title: `${many} removed (−)`, axis, of };
  }
  const counts = known as number[];
  const most = Math.max(...counts);
  const [each, word] = UNITS_OF_PARAMETERS.find(([value]) => most >= value) ?? [1, ""];
  return {
    what: "parameters",
    title: `parameters${word === "" ? "" : ` (${word})`}`,
    axis: scaleBetween(Math.min(...counts), most, each),
    of: (step) => counts[step + 1] as number,
  };
}
