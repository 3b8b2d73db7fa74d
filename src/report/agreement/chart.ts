/** Two runs → the scatter of their effects. */
import type { ScatterChart, ScatterPoint } from "../chart.ts";
import { shortened } from "../headline.ts";
import { leftOut, MOST_POINTS } from "../limits.ts";
import type { Mark } from "../marks.ts";
import { fixed, interval, probability, signed } from "../numbers.ts";
import { place, scaleFor } from "../scale.ts";
import { sayer } from "../wording.ts";
import { type Agreement, isDoubtedPair, type Pair } from "./agreement.ts";
import { evaluatedIn, pairDecimals, rankSentence } from "./words.ts";

/** Points whose names stand in the picture, where there is room. */
const NAMED = 12;
const SIDE = 640;

export function agreementChart(agreement: Agreement): ScatterChart {
  const { runs, pairs, unpaired, differing } = agreement;
  const [a, b] = runs;
  const facts = evaluatedIn(agreement);
  const effects = pairs.flatMap(({ rows }) => rows.flatMap(({ delta_nll }) => delta_nll ?? []));
  const scale = scaleFor(effects, effects, false);
  const decimals = pairDecimals(agreement);
  const axis = (side: 0 | 1) => `Δ NLL in ${runs[side].name} (nats per token)`;
  const named = new Set(pairs.slice(0, NAMED));
  return {
    type: "scatter",
    name: `agreement-${a.letter}-${b.letter}`.toLowerCase(),
    title: `${b.name} against ${a.name}`,
    subtitle: [`${a.run.facts.model}; ${a.run.facts.text}`, shortRank(agreement)],
    legend: [],
    notes: [
      ...leftOut(MOST_POINTS, pairs.length, "conditions", "with the largest disagreements"),
      ...(scale.linear_within === null
        ? []
        : [`Scales (symlog): linear within about ±${scale.linear_within}, logarithmic beyond.`]),
      "On the broken line both say the same.",
      ...(unpaired === null
        ? [
            sayer(
              facts,
            )`Differing distinguishably: paired by block, q ≤ 0.05 over all conditions shown, no flag.`,
          ]
        : []),
      ...(differing.length === 0
        ? []
        : [`Not measured alike: ${differing.map(({ key }) => key).join(", ")}.`]),
    ],
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
      .map((pair) => point(pair, agreement, decimals, named.has(pair))),
  };

  function point(
    pair: Pair,
    { runs: [first, second] }: Agreement,
    digits: number,
    isNamed: boolean,
  ): ScatterPoint {
    const { site, rows, ranks, difference, q } = pair;
    const line = (side: 0 | 1, letter: string) =>
      `${letter} ${signed(rows[side].delta_nll ?? 0, digits)}  ${interval(rows[side].ci95, digits)}, rank ${fixed(ranks[side], Number.isInteger(ranks[side]) ? 0 : 1)}`;
    const flags = shortened(pair.flags, facts);
    return {
      condition: site,
      mark: markOf(pair),
      x: place(scale, rows[0].delta_nll ?? 0),
      y: place(scale, rows[1].delta_nll ?? 0),
      named: isNamed,
      hover: [
        site,
        line(0, first.letter),
        line(1, second.letter),
        ...(difference === null
          ? []
          : [
              `${second.letter} − ${first.letter} ${signed(difference.mean, digits)}  ${interval(difference.ci95, digits)}, q ${probability(q)}`,
            ]),
        ...(flags === "" ? [] : [flags]),
      ],
    };
  }
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
