/** Who backs up whom: the interaction of every two components that were measured alone and together. */

import type { RunFacts } from "../results/facts.ts";
import type { Rows } from "../results/packed-rows.ts";
import { type JointRow, rankedInteractions } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import type { Heatmap } from "./chart.ts";
import { sampleText, shortened } from "./headline.ts";
import { leftOut, MOST_CELLS } from "./limits.ts";
import { markOfTest, signs } from "./marks.ts";
import { interval, orDash, probability, signed } from "./numbers.ts";
import { place, type Scale, scaleFor } from "./scale.ts";
import { surveyOf } from "./survey.ts";
import { type Evaluated, sayer } from "./wording.ts";

type Cell = Heatmap["cells"][number];

/** Fewer pairs than this are read in the table. */
const LEAST_PAIRS = 3;

const MOST_COMPONENTS = Math.floor(Math.sqrt(MOST_CELLS));

/** null where too few pairs are in the run. */
export function interactionMatrix(rows: Rows, facts: RunFacts): Heatmap | null {
  const pairsOf = () => rankedInteractions(rows).filter(({ interaction: { parts } }) => parts.length === 2);
  const pairs = pairsOf()
    .map(({ condition, interaction }) => ({ condition, interaction }))
    .toArray();
  if (pairs.length < LEAST_PAIRS) return null;
  // The pairs are ranked: the components of the first have the largest interactions.
  const all = new Set(pairs.flatMap(({ interaction }) => interaction.parts));
  const paired = new Set([...all].slice(0, MOST_COMPONENTS));
  const components = rows
    .values()
    .filter(({ condition }) => paired.has(condition))
    .toArray()
    .sort(byPlace);
  const labels = labelsOf(components.map(({ condition }) => condition));
  const byParts = new Map(
    pairsOf().flatMap((row) => {
      if (!row.interaction.parts.every((part) => paired.has(part))) return [];
      const [a, b] = row.interaction.parts as [string, string];
      return [`${a}\n${b}`, `${b}\n${a}`].map((key) => [key, row] as const);
    }),
  );
  const effects = pairs.flatMap(({ interaction: { effect } }) => (effect === null ? [] : [effect]));
  const scale = scaleFor(effects, effects, true);
  const decimals = surveyOf(rows).decimals;
  const cells = components.flatMap((row, y) =>
    components.map((column, x): Cell => {
      const place = { column: labels[x] as string, row: labels[y] as string };
      if (row === column) return { ...place, ...alone(row, decimals) };
      const joint = byParts.get(`${row.condition}\n${column.condition}`);
      return {
        ...place,
        ...together(joint, `${row.condition} + ${column.condition}`, scale, decimals, facts),
      };
    }),
  );
  const side = { title: "without", labels };
  const cell = Math.min(44, Math.max(14, 560 / components.length));
  const labelSpace = 7 * labels.reduce((length, label) => Math.max(length, label.length), 0);
  const [top] = pairs;
  return {
    type: "heatmap",
    name: "interactions",
    title: "Who backs up whom: interaction of every two",
    subtitle: [`${facts.model}, ${facts.numerics.dtype}`, `${facts.text}, ${sampleText(rows, facts)}`],
    value: "interaction (nats per token)",
    legend: [signs(pairs.map(({ interaction }) => markOfTest(interaction)))],
    notes: [
      ...leftOut(paired.size, all.size, "components", "with the largest interactions"),
      "Interaction: Δ NLL of both together minus the sum of both alone. Red: they back each other up; blue: either loss breaks much the same.",
      ...(scale.linear_within === null
        ? []
        : [`Scale (symlog): linear within about ±${scale.linear_within}, logarithmic beyond.`]),
      sayer(facts)`Distinguishable: q ≤ 0.05 over the interactions and no flag; paired by block.`,
    ],
    description: `Largest interaction: ${top?.condition}, ${orDash(top?.interaction.effect ?? null, (value) => signed(value, decimals))}; ${pairs.filter(({ interaction }) => interaction.distinguishable).length} of ${pairs.length} pairs are distinguishable from 0.`,
    columns: { ...side, upright: true },
    rows: { ...side, upright: false },
    width: Math.round(Math.max(640, 200 + labelSpace + cell * components.length)),
    height: Math.round(210 + labelSpace + cell * components.length),
    scale,
    cells,
  };
}

/** The diagonal: no colour, the component's own effect to read. */
function alone({ condition, delta_nll }: Row, decimals: number): Omit<Cell, "row" | "column"> {
  const effect = orDash(delta_nll, (value) => signed(value, decimals));
  return {
    condition,
    mark: "untested",
    at: null,
    low: null,
    high: null,
    hover: [`${condition} alone`, `Δ NLL ${effect}`],
  };
}

function together(
  joint: JointRow | undefined,
  name: string,
  scale: Scale,
  decimals: number,
  facts: Evaluated,
): Omit<Cell, "row" | "column"> {
  if (joint === undefined || joint.interaction.effect === null) {
    const hover = [name, joint === undefined ? "not in this run" : "not measured"];
    return {
      condition: name,
      mark: joint === undefined ? "untested" : "failed",
      at: null,
      low: null,
      high: null,
      hover,
    };
  }
  const { effect, ci95, q, flags } = joint.interaction;
  return {
    condition: joint.condition,
    mark: markOfTest(joint.interaction),
    at: place(scale, effect),
    low: ci95 && place(scale, ci95[0]),
    high: ci95 && place(scale, ci95[1]),
    hover: [
      joint.condition,
      `interaction ${signed(effect, decimals)}  ${interval(ci95, decimals)}`,
      `q ${probability(q)}`,
      `Δ NLL together ${orDash(joint.delta_nll, (value) => signed(value, decimals))}`,
      ...(flags.length === 0 ? [] : [shortened(flags, facts)]),
    ],
  };
}

/** From the first layer to the last, heads in their order. */
function byPlace(a: Row, b: Row): number {
  return (a.layer ?? 0) - (b.layer ?? 0) || (a.heads?.[0] ?? 0) - (b.heads?.[0] ?? 0);
}

/** Ids without what all of them end with: their mode. */
function labelsOf(ids: readonly string[]): string[] {
  const endings = new Set(ids.map((id) => /\.(?:zero|mean|skip)(?:@not_first)?$/.exec(id)?.[0] ?? ""));
  const [ending = ""] = endings;
  return endings.size === 1 ? ids.map((id) => id.slice(0, id.length - ending.length)) : [...ids];
}
