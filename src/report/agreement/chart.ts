/** Two runs → the scatter of their effects. */
import type { Row } from "../../results/row.ts";
import type { ScatterChart } from "../chart.ts";
import { shortened } from "../headline.ts";
import { leftOut, MOST_POINTS } from "../limits.ts";
import type { Mark } from "../marks.ts";
import { fixed, interval, probability, rank, signed } from "../numbers.ts";
import { place, type Scale, scaleFor } from "../scale.ts";
import { sayer } from "../wording.ts";
import { type Agreement, isDoubtedPair, type Pair } from "./agreement.ts";
import { evaluatedIn, pairDecimals, rankSentence } from "./words.ts";

/** Points whose names stand in the picture, where there is room. */
const NAMED = 12;
const SIDE = 640;

export function agreementChart(agreement: Agreement): ScatterChart {
  const { runs, pairs } = agreement;
  const [a, b] = runs;
  const effects = pairs.flatMap(({ rows }) => rows.flatMap(({ delta_nll }) => delta_nll ?? []));
  const scale = scaleFor(effects, effects, false);
  const axis = (side: 0 | 1) => `Δ NLL in ${runs[side].name} (nats per token)`;
  const hover = hoverOf(agreement);
  const named = new Set(pairs.slice(0, NAMED));
  return {
    type: "scatter",
    name: `agreement-${a.letter}-${b.letter}`.toLowerCase(),
    title: `${b.name} against ${a.name}`,
    subtitle: [`${a.run.facts.model}; ${a.run.facts.text}`, shortRank(agreement)],
    legend: [],
    notes: notesOf(agreement, scale),
    description: `${rankSentence(agreement)} Largest disagreement: ${pairs[0]?.site}.`,
    width: SIDE + 60,
    height: SIDE + 160,
    scale,
    x: axis(0),
    y: axis(1),
    // The marked ones are drawn last, over the others.
    points: pairs
      .slice(0, MOST_POINTS)
      .sort((x, y) => Number(x.distinguishable ?? 0) - Number(y.distinguishable ?? 0))
      .map((pair) => ({
        condition: pair.site,
        mark: markOf(pair),
        x: place(scale, pair.rows[0].delta_nll ?? 0),
        y: place(scale, pair.rows[1].delta_nll ?? 0),
        named: named.has(pair),
        hover: hover(pair),
      })),
  };
}

function notesOf(agreement: Agreement, { linear_within }: Scale): string[] {
  const { pairs, unpaired, differing } = agreement;
  const say = sayer(evaluatedIn(agreement));
  return [
    ...leftOut(MOST_POINTS, pairs.length, "conditions", "with the largest disagreements"),
    ...(linear_within === null
      ? []
      : [`Scales (symlog): linear within about ±${linear_within}, logarithmic beyond.`]),
    "On the broken line both say the same.",
    ...(unpaired === null
      ? [
          say`Differing distinguishably: paired by block, q ≤ 0.05 over all conditions shown, no flag but “skewed”.`,
        ]
      : []),
    ...(differing.length === 0 ? [] : [`Not measured alike: ${differing.map(({ key }) => key).join(", ")}.`]),
  ];
}

/** What a pair's point says of it. */
function hoverOf(agreement: Agreement): (pair: Pair) => string[] {
  const [a, b] = agreement.runs;
  const facts = evaluatedIn(agreement);
  const decimals = pairDecimals(agreement);
  const effect = (value: number, ci95: Row["ci95"]): string =>
    `${signed(value, decimals)}  ${interval(ci95, decimals)}`;
  return ({ site, rows, ranks, difference, q, flags }) => {
    const line = (side: 0 | 1, letter: string): string =>
      `${letter} ${effect(rows[side].delta_nll ?? 0, rows[side].ci95)}, rank ${rank(ranks[side])}`;
    const short = shortened(flags, facts);
    return [
      site,
      line(0, a.letter),
      line(1, b.letter),
      ...(difference === null
        ? []
        : [`${b.letter} − ${a.letter} ${effect(difference.mean, difference.ci95)}, q ${probability(q)}`]),
      ...(short === "" ? [] : [short]),
    ];
  };
}

function shortRank({ ranking: { n, rho, ci95 } }: Agreement): string {
  const value = rho === null ? "not defined" : fixed(rho, 3);
  return `Spearman ρ ${value}${ci95 === null ? "" : `, 95 % interval ${fixed(ci95[0], 3)} to ${fixed(ci95[1], 3)}`}, ${n} conditions`;
}

function markOf(pair: Pair): Mark {
  if (pair.distinguishable === null) return "untested";
  if (pair.distinguishable) return "distinguishable";
  return isDoubtedPair(pair) ? "doubted" : "unmarked";
}
