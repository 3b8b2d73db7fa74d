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
  const pairs = pairsOf(rows)
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
  const effects = pairs.flatMap(({ interaction: { effect } }) => (effect === null ? [] : [effect]));
  const scale = scaleFor(effects, effects, true);
  const decimals = surveyOf(rows).decimals;
  const side = { title: "without", labels };
  const cell = Math.min(44, Math.max(14, 560 / components.length));
  const labelSpace = 7 * labels.reduce((length, label) => Math.max(length, label.length), 0);
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
      sayer(
        facts,
      )`Distinguishable: q ≤ 0.05 over the interactions and no flag but “skewed”; paired by block.`,
    ],
    description: describe(pairs, decimals),
    columns: { ...side, upright: true },
    rows: { ...side, upright: false },
    width: Math.round(Math.max(640, 200 + labelSpace + cell * components.length)),
    height: Math.round(210 + labelSpace + cell * components.length),
    scale,
    cells: cellsOf(components, labels, jointRows(rows, paired), scale, decimals, facts),
  };
}

const pairsOf = (rows: Rows) =>
  rankedInteractions(rows).filter(({ interaction: { parts } }) => parts.length === 2);

function describe(pairs: readonly Pick<JointRow, "condition" | "interaction">[], decimals: number): string {
  const [top] = pairs;
  const largest = orDash(top?.interaction.effect ?? null, (value) => signed(value, decimals));
  const marked = pairs.filter(({ interaction }) => interaction.distinguishable).length;
  return `Largest interaction: ${top?.condition}, ${largest}; ${marked} of ${pairs.length} pairs are distinguishable from 0.`;
}

/** Rows of two of the components, by the names of both, in either order. */
function jointRows(rows: Rows, components: ReadonlySet<string>): Map<string, JointRow> {
  const joint = pairsOf(rows).filter(({ interaction }) =>
    interaction.parts.every((part) => components.has(part)),
  );
  return new Map(
    joint.flatMap((row) => {
      const [a, b] = row.interaction.parts as [string, string];
      return [`${a}\n${b}`, `${b}\n${a}`].map((key) => [key, row] as const);
    }),
  );
}

function cellsOf(
  components: readonly Row[],
  labels: readonly string[],
  joint: ReadonlyMap<string, JointRow>,
  scale: Scale,
  decimals: number,
  facts: Evaluated,
): Cell[] {
  return components.flatMap((row, y) =>
    components.map((column, x): Cell => {
      const place = { column: labels[x] as string, row: labels[y] as string };
      if (row === column) return { ...place, ...alone(row, decimals) };
      const both = joint.get(`${row.condition}\n${column.condition}`);
      const name = `${row.condition} + ${column.condition}`;
      return { ...place, ...together(both, name, scale, decimals, facts) };
    }),
  );
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
