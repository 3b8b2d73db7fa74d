/** The ranking's columns, for the terminal and the page. Adding one is adding a row here. */
import { METRIC_NAMES, METRICS } from "../protocol/catalog.ts";
import { CHANGE, isLevel } from "../protocol/metrics.ts";
import { titleOf } from "../results/layout.ts";
import type { Rows } from "../results/packed-rows.ts";
import type { JointRow } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import { shortened, shortFlags } from "./headline.ts";
import { fixed, integer, interval, orDash, probability, ratio, signed } from "./numbers.ts";
import { surveyOf } from "./survey.ts";
import { type Evaluated, inWords } from "./wording.ts";

export interface Column<T = Row> {
  readonly title: string;
  readonly align: "left" | "right";
  /**
   * In a narrow terminal the column with the highest number goes first, 0 stays; null: on the page
   * only.
   */
  readonly expendable: number | null;
  readonly text: (row: T, rank: number, decimals: number) => string;
  /** What the page sorts by, with every digit. */
  readonly key: (row: T, rank: number) => number | string | null;
}

const EFFECT: Omit<Column, "expendable"> = {
  title: "Δ NLL",
  align: "right",
  text: (row, _, decimals) => orDash(row.delta_nll, (value) => signed(value, decimals)),
  key: (row) => row.delta_nll,
};

const BEFORE_METRICS: readonly Column[] = [
  {
    title: "#",
    align: "right",
    expendable: 0,
    text: (row, rank) => (row.delta_nll === null ? "" : `${rank}`),
    key: (_, rank) => rank,
  },
  {
    title: "",
    align: "left",
    expendable: 0,
    text: (row) => (row.distinguishable ? "*" : ""),
    key: (row) => (row.distinguishable ? 0 : 1),
  },
  {
    title: "condition",
    align: "left",
    expendable: 0,
    text: (row) => row.condition,
    key: (row) => row.condition,
  },
  {
    title: "layer",
    align: "right",
    expendable: null,
    text: (row) => (row.layer === null ? "" : String(row.layer)),
    key: (row) => row.layer,
  },
  { ...EFFECT, expendable: 0 },
  {
    title: "SE",
    align: "right",
    expendable: 4,
    text: (row, _, decimals) => orDash(row.se, (value) => fixed(value, decimals)),
    key: (row) => row.se,
  },
  {
    title: "95 % interval",
    align: "right",
    expendable: 0,
    text: (row, _, decimals) => interval(row.ci95, decimals),
    key: (row) => row.ci95?.[0] ?? null,
  },
  {
    title: "p",
    align: "right",
    expendable: null,
    text: (row) => probability(row.p),
    key: (row) => row.p,
  },
  { title: "q", align: "right", expendable: 1, text: (row) => probability(row.q), key: (row) => row.q },
  {
    title: "ppl ×",
    align: "right",
    expendable: 2,
    text: (row) => ratio(row.perplexity_ratio),
    key: (row) => row.perplexity_ratio,
  },
  {
    title: "NLL",
    align: "right",
    expendable: null,
    text: (row, _, decimals) => orDash(row.nll, (value) => fixed(value, decimals)),
    key: (row) => row.nll,
  },
];

const blocksColumn = (facts: Evaluated): Column => ({
  title: inWords(facts, "blocks"),
  align: "right",
  expendable: 3,
  text: (row) => integer(row.blocks),
  key: (row) => row.blocks,
});

/** In how many of the blocks that changed the loss rose. */
const WORSE: Column = {
  title: "worse",
  align: "right",
  expendable: 3.5,
  text: (row) => row.worse_blocks ?? "",
  key: (row) => (row.worse_blocks === null ? null : Number.parseInt(row.worse_blocks, 10)),
};

function flagsColumn(facts: Evaluated): Column {
  const flags = (row: Row): string => shortFlags(row, facts);
  return { title: "flags", align: "left", expendable: 0, text: flags, key: flags };
}

/** Beside the ranking on the page, to sort by; the terminal has a table of their own for them. */
const OF_INTERACTION: readonly Column[] = [
  {
    title: "interaction",
    align: "right",
    expendable: null,
    text: ({ interaction }, _, decimals) =>
      interaction === null
        ? ""
        : `${interaction.distinguishable ? "* " : ""}${orDash(interaction.effect, (value) => signed(value, decimals))}`,
    key: (row) => row.interaction?.effect ?? null,
  },
  {
    title: "its 95 % interval",
    align: "right",
    expendable: null,
    text: ({ interaction }, _, decimals) =>
      interaction === null ? "" : interval(interaction.ci95, decimals),
    key: (row) => row.interaction?.ci95?.[0] ?? null,
  },
  {
    title: "its q",
    align: "right",
    expendable: null,
    text: ({ interaction }) => (interaction === null ? "" : probability(interaction.q)),
    key: (row) => row.interaction?.q ?? null,
  },
];

/** The columns of these rows: the metrics that were measured, and interactions, stand before the flags. */
export function columnsOf(rows: Rows, facts: Evaluated): Column[] {
  const survey = surveyOf(rows);
  const interactions = survey.interactions.length > 0 ? OF_INTERACTION : [];
  return [
    ...BEFORE_METRICS,
    blocksColumn(facts),
    WORSE,
    ...inOrder(survey.metrics).flatMap(metricColumns),
    ...interactions,
    flagsColumn(facts),
  ];
}

/** The table of interactions. Adding a column is adding a row here. */
export const interactionColumns = (facts: Evaluated): Column<JointRow>[] => [
  {
    title: "",
    align: "left",
    expendable: 0,
    text: ({ interaction }) => (interaction.distinguishable ? "*" : ""),
    key: ({ interaction }) => (interaction.distinguishable ? 0 : 1),
  },
  {
    title: "condition",
    align: "left",
    expendable: 0,
    text: (row) => row.condition,
    key: (row) => row.condition,
  },
  {
    title: "interaction",
    align: "right",
    expendable: 0,
    text: ({ interaction }, _, decimals) => orDash(interaction.effect, (value) => signed(value, decimals)),
    key: ({ interaction }) => interaction.effect,
  },
  {
    title: "SE",
    align: "right",
    expendable: 3,
    text: ({ interaction }, _, decimals) => orDash(interaction.se, (value) => fixed(value, decimals)),
    key: ({ interaction }) => interaction.se,
  },
  {
    title: "95 % interval",
    align: "right",
    expendable: 0,
    text: ({ interaction }, _, decimals) => interval(interaction.ci95, decimals),
    key: ({ interaction }) => interaction.ci95?.[0] ?? null,
  },
  {
    title: "q",
    align: "right",
    expendable: 1,
    text: ({ interaction }) => probability(interaction.q),
    key: ({ interaction }) => interaction.q,
  },
  { ...EFFECT, expendable: 2 },
  {
    title: "Σ of parts",
    align: "right",
    expendable: 2,
    text: (row, _, decimals) => orDash(sumOfParts(row), (value) => signed(value, decimals)),
    key: sumOfParts,
  },
  {
    title: "flags",
    align: "left",
    expendable: 0,
    text: ({ interaction }) => shortened(interaction.flags, facts),
    key: ({ interaction }) => shortened(interaction.flags, facts),
  },
];

/** Σ Δ NLL of the parts on the condition's own blocks; null where they were not measured on all of those. */
function sumOfParts({ delta_nll, blocks, interaction }: JointRow): number | null {
  if (delta_nll === null || interaction.effect === null || interaction.blocks !== blocks) return null;
  return delta_nll - interaction.effect;
}

/** A level stands on the page only: what a condition does is its change, and how surely its interval. */
function metricColumns(name: string): Column[] {
  const mean = (row: Row) => row.metrics[name]?.mean ?? null;
  if (isLevel(name)) return [{ ...PLAIN, title: name, expendable: null, text: plain(mean), key: mean }];
  if (!name.startsWith(CHANGE)) return [{ ...PLAIN, title: titleOf(name), text: plain(mean), key: mean }];
  const ends = (row: Row) => row.metrics[name]?.ci95 ?? null;
  const title = `Δ ${name.slice(CHANGE.length)}`;
  return [
    { ...PLAIN, title, text: (row) => orDash(mean(row), (value) => signed(value, 3)), key: mean },
    {
      ...PLAIN,
      title: `95 % interval of ${title}`,
      expendable: null,
      text: (row) => interval(ends(row), 3),
      key: (row) => ends(row)?.[0] ?? null,
    },
  ];
}

const PLAIN = { align: "right", expendable: 1.5 } as const;
const plain = (mean: (row: Row) => number | null) => (row: Row) =>
  orDash(mean(row), (value) => value.toPrecision(3));

/** As the table of metrics has them, each change behind its level; others, from another version, last. */
function inOrder(columns: readonly string[]): string[] {
  const known: string[] = METRIC_NAMES.flatMap((name) =>
    METRICS[name].columns.flatMap((column) => [column, `${CHANGE}${column}`]),
  );
  const place = (column: string) => (known.includes(column) ? known.indexOf(column) : known.length);
  return columns.toSorted((a, b) => place(a) - place(b));
}
