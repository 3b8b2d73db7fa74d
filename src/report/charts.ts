/**
 * Rows → charts, as plain data. `drawing.ts` turns a definition into Chart.js options, for the PNG
 * files and for the page alike.
 */

import { listedParts } from "../conditions/parts.ts";
import { partsOf, SITE_KINDS, SITES, type SiteKind } from "../protocol/catalog.ts";
import type { RunFacts } from "../results/facts.ts";
import type { Rows } from "../results/packed-rows.ts";
import { entriesOf, rankRows } from "../results/ranking.ts";
import type { Row } from "../results/row.ts";
import type { BarChart, ChartDefinition, Heatmap, Point } from "./chart.ts";
import { componentName, sampleText, shortFlags } from "./headline.ts";
import { interactionMatrix } from "./interaction-matrix.ts";
import { leftOut, MOST_BARS, MOST_CELLS, MOST_SIDE, strongest } from "./limits.ts";
import { type Mark, markOfTest, signs } from "./marks.ts";
import { integer, interval, percent, probability, signed } from "./numbers.ts";
import { place, type Scale, scaleFor } from "./scale.ts";
import { surveyOf } from "./survey.ts";
import { type Evaluated, sayer } from "./wording.ts";

/** Most bars of a ranking chart. */
const RANKING_BARS = 30;

/** The charts that fit a sweep: bars over layers, a layer × head map, or the ranking itself. */
export function chartsFor(rows: Rows, facts: RunFacts): ChartDefinition[] {
  if (!rows.values().drop(1).some(isBegun)) return [];
  const site = SITE_KINDS.find((kind) => SITES[kind].sweep === facts.sweep);
  const panels = panelsOf(rows, site);
  const swept = panels.flatMap((panel) => panel.spots);
  if (site !== undefined && partsOf(site) === null) {
    const scale = barScale(rowsAt(rows, swept));
    return panels.map((panel) => layerBars(rows, panel, facts, scale));
  }
  if (site !== undefined) {
    const places = placesOf(swept, panels.length);
    const maps = panels.map((panel) => heatmap(rows, panel, swept, facts, places));
    return [...maps, rankingBars(rows, facts)];
  }
  const matrix = interactionMatrix(rows, facts);
  return matrix === null ? [rankingBars(rows, facts)] : [matrix, rankingBars(rows, facts)];
}

/** One mode's share of a sweep: panels of one picture's worth of places each, so that no two conditions share one. */
interface Panel {
  /** Behind the sweep's name in the chart's. */
  readonly suffix: string;
  readonly spots: readonly Spot[];
}

/** Of a row all that decides whether a picture has room for it. */
interface Spot {
  /** Among the run's rows. */
  readonly index: number;
  readonly layer: number;
  /** Which head, or which key/value group, of its layer. */
  readonly head: number;
  readonly effect: number | null;
}

const rowsAt = (rows: Rows, spots: readonly Spot[]): Row[] => spots.map(({ index }) => rows.at(index) as Row);

const isBegun = ({ status }: Row): boolean => status !== "pending";

/** The sweep's own conditions, one panel a mode; what targets add besides stands in the ranking alone. */
function panelsOf(rows: Rows, site: SiteKind | undefined): Panel[] {
  const byEdit = new Map<string, Spot[]>();
  for (const [index, row] of entriesOf(rows)) {
    if (!isBegun(row) || row.kind !== site || (row.heads?.length ?? 1) > 1) continue;
    const [edit] = row.interventions;
    const positions = edit !== undefined && "positions" in edit && edit.positions !== "all";
    const key = `${row.mode}${positions ? "-not-first" : ""}`;
    const spot = { index, layer: row.layer ?? 0, head: partIndex(row), effect: row.delta_nll };
    const panel = byEdit.get(key);
    if (panel === undefined) byEdit.set(key, [spot]);
    else panel.push(spot);
  }
  return [...byEdit].map(([key, spots]) => ({ suffix: byEdit.size === 1 ? "" : `-${key}`, spots }));
}

function layerBars(rows: Rows, panel: Panel, facts: RunFacts, scale: Scale): BarChart {
  const { kept, total } = strongest(panel.spots.map(ofLayer), MOST_BARS);
  const inLayers = new Set(kept);
  const chosen = panel.spots.filter(({ layer }) => inLayers.has(layer)).sort((a, b) => a.layer - b.layer);
  const ordered = rowsAt(rows, chosen);
  const decimals = surveyOf(rows).decimals;
  return {
    ...frame(rows, ordered, facts, scale, leftOut(kept.length, total, "layers")),
    type: "bars",
    legend: [],
    name: `${facts.sweep}${panel.suffix}`,
    title: `What each ${componentName(facts)} is worth: Δ NLL without it${modeText(ordered)}`,
    horizontal: false,
    category: "layer",
    width: Math.min(1280, Math.max(720, 120 + 22 * ordered.length)),
    height: 480,
    bars: ordered.map((row) => ({
      ...point(row, scale, decimals, facts),
      label: String(row.layer ?? row.condition),
    })),
  };
}

function rankingBars(rows: Rows, facts: RunFacts): BarChart {
  const isShown = (row: Row) => row.delta_nll !== null || row.status === "failed";
  const total = surveyOf(rows).rankable;
  const ranked = rankRows(rows, RANKING_BARS, isShown);
  const scale = barScale(ranked);
  const decimals = surveyOf(rows).decimals;
  const counted = ranked.length < total ? `the ${ranked.length} largest of ${integer(total)}` : "all";
  return {
    ...frame(rows, ranked, facts, scale),
    type: "bars",
    legend: [],
    name: "ranking",
    title: `Conditions by Δ NLL, ${counted}`,
    horizontal: true,
    category: "condition",
    width: 860,
    height: 190 + 20 * ranked.length,
    bars: ranked.map((row) => ({ ...point(row, scale, decimals, facts), label: row.condition })),
  };
}

type Places = ReturnType<typeof placesOf>;

/** Layers and heads that the maps of so many panels have room for. */
function placesOf(swept: readonly Spot[], panels: number) {
  const heads = strongest(
    swept.map(({ head, effect }) => [head, effect ?? 0] as const),
    MOST_SIDE,
  );
  const room = Math.max(1, Math.floor(MOST_CELLS / panels / heads.kept.length));
  return { layers: strongest(swept.map(ofLayer), Math.min(MOST_SIDE, room)), heads };
}

/** @param swept the spots of all panels, which share places and colours. */
function heatmap(rows: Rows, panel: Panel, swept: readonly Spot[], facts: RunFacts, places: Places): Heatmap {
  const [layers, heads] = [places.layers.kept, places.heads.kept];
  const [inLayers, inHeads] = [new Set(layers), new Set(heads)];
  const shown = panel.spots.filter(({ layer, head }) => inLayers.has(layer) && inHeads.has(head));
  const measured = rowsAt(rows, shown);
  const effects = swept.flatMap(({ effect }) => (effect === null ? [] : [effect]));
  const scale = scaleFor(effects, effects, true);
  const decimals = surveyOf(rows).decimals;
  const cellWidth = Math.min(44, Math.max(12, 640 / heads.length));
  const cellHeight = Math.min(24, Math.max(12, 600 / layers.length));
  return {
    ...frame(rows, measured, facts, scale, [
      ...leftOut(layers.length, places.layers.total, "layers"),
      ...leftOut(heads.length, places.heads.total, facts.sweep === "heads" ? "heads" : "key/value groups"),
    ]),
    type: "heatmap",
    legend: [signs(measured.map(markOf))],
    name: `${facts.sweep}${panel.suffix}`,
    title: `What each ${componentName(facts)} is worth: Δ NLL without it${modeText(measured)}`,
    value: "Δ NLL (nats per token)",
    columns: {
      title: facts.sweep === "heads" ? "head" : "key/value group",
      labels: heads.map(String),
      upright: false,
    },
    rows: { title: "layer", labels: layers.map(String), upright: false },
    width: Math.round(Math.max(640, 190 + cellWidth * heads.length)),
    height: Math.round(190 + cellHeight * layers.length),
    cells: measured.map((row) => ({
      ...point(row, scale, decimals, facts),
      column: String(partIndex(row)),
      row: String(row.layer ?? 0),
    })),
  };
}

/**
 * What all charts of a run say in the same words.
 * @param missing what the chart has no room for.
 */
function frame(
  rows: Rows,
  shown: readonly Row[],
  facts: RunFacts,
  scale: Scale,
  missing: readonly string[] = [],
) {
  const say = sayer(facts);
  const [top] = rankRows([...rows.values().take(1), ...shown], 1);
  return {
    subtitle: [`${facts.model}, ${facts.numerics.dtype}`, `${facts.text}, ${sampleText(rows, facts)}`],
    notes: [
      ...missing,
      ...(scale.linear_within === null
        ? []
        : [
            `Scale (symlog): linear within about ±${scale.linear_within}, logarithmic beyond, since a few effects dwarf the rest.`,
          ]),
      facts.statistics.race
        ? say`Intervals hold for all conditions together at ${percent(facts.statistics.race.confidence)}, paired by block; conditions saw different numbers of blocks.`
        : say`Distinguishable: q ≤ 0.05 over the whole sweep and no flag but “skewed”. Intervals are 95 %, paired by block, unadjusted.`,
    ],
    description:
      top?.delta_nll == null
        ? "No effects are measured yet."
        : `Largest effect: ${top.condition}, Δ NLL ${signed(top.delta_nll, surveyOf(rows).decimals)}; ${shown.filter((row) => row.distinguishable).length} of ${shown.length} shown are distinguishable from 0.`,
    scale,
  };
}

function barScale(rows: readonly Row[]): Scale {
  const effects = rows.flatMap((row) => (row.delta_nll === null ? [] : [row.delta_nll]));
  return scaleFor(effects, [...effects, ...rows.flatMap((row) => row.ci95 ?? [])], false);
}

function point(row: Row, scale: Scale, decimals: number, facts: Evaluated): Point {
  const { delta_nll: effect, ci95 } = row;
  const flags = shortFlags(row, facts);
  return {
    condition: row.condition,
    mark: markOf(row),
    at: effect === null ? null : place(scale, effect),
    low: ci95 && place(scale, ci95[0]),
    high: ci95 && place(scale, ci95[1]),
    hover: [
      row.condition,
      ...(effect === null
        ? []
        : [`Δ NLL ${signed(effect, decimals)}  ${interval(ci95, decimals)}`, `q ${probability(row.q)}`]),
      ...(flags === "" ? [] : [flags]),
    ],
  };
}

/** Which part of its layer's site. */
const partIndex = ({ interventions: [only] }: Row): number => (only && listedParts(only)?.[0]) ?? 0;

function markOf(row: Row): Mark {
  return row.delta_nll === null ? "failed" : markOfTest(row);
}

/** ", zeroed" and the like, where all rows share one mode. */
function modeText(rows: readonly Row[]): string {
  const modes = new Set(rows.map((row) => row.mode));
  const [mode] = modes;
  return modes.size === 1 && mode ? ` (${mode})` : "";
}

const ofLayer = ({ layer, effect }: Spot) => [layer, effect ?? 0] as const;
