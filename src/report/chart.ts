/** A chart as plain data: what `drawing.ts` turns into Chart.js options. */
import type { Mark } from "./marks.ts";
import type { Scale } from "./scale.ts";

export interface Point {
  readonly condition: string;
  readonly mark: Mark;
  /** Position of Δ NLL on the chart's scale; null where it failed. */
  readonly at: number | null;
  /** Ends of the 95 % interval, as positions. */
  readonly low: number | null;
  readonly high: number | null;
  /** What hovering shows, a line each. */
  readonly hover: readonly string[];
}

interface Chart {
  /** File name without its ending. */
  readonly name: string;
  readonly title: string;
  readonly subtitle: readonly string[];
  /** What the signs mean, where Chart.js has no legend of its own for them. */
  readonly legend: readonly string[];
  /** What a reader must know to read it: scale, intervals, marks. */
  readonly notes: readonly string[];
  /** One sentence for those who cannot see it. */
  readonly description: string;
  /** CSS pixels. */
  readonly width: number;
  readonly height: number;
  readonly scale: Scale;
}

export interface BarChart extends Chart {
  readonly type: "bars";
  readonly horizontal: boolean;
  readonly category: string;
  readonly bars: readonly (Point & { readonly label: string })[];
}

/** One side of a heatmap. */
interface Side {
  readonly title: string;
  readonly labels: readonly string[];
  /** Long names stand upright under the columns. */
  readonly upright: boolean;
}

export interface Heatmap extends Chart {
  readonly type: "heatmap";
  /** What the colours say, with its unit. */
  readonly value: string;
  readonly columns: Side;
  readonly rows: Side;
  readonly cells: readonly (Point & { readonly column: string; readonly row: string })[];
}

export interface ScatterPoint extends Pick<Point, "condition" | "mark" | "hover"> {
  /** Positions on the chart's scale. */
  readonly x: number;
  readonly y: number;
  /** Whether its name stands beside it. */
  readonly named: boolean;
}

export interface ScatterChart extends Chart {
  readonly type: "scatter";
  /** Titles of the axes, which share one scale. */
  readonly x: string;
  readonly y: string;
  readonly points: readonly ScatterPoint[];
}

export interface CurvePoint {
  /** Which of the chart's lines it lies on. */
  readonly line: number;
  /** Position on the horizontal axis. */
  readonly x: number;
  /** Positions on the chart's scale: the value, and the ends of its interval where it has one. */
  readonly y: number;
  readonly low: number | null;
  readonly high: number | null;
  /** Whether it stands out. */
  readonly chosen: boolean;
  readonly hover: readonly string[];
}

/** Lines with bands: a value against what it was bought with. */
export interface CurveChart extends Chart {
  readonly type: "curves";
  /** The horizontal axis, and the titles of both. */
  readonly across: Scale;
  readonly x: string;
  readonly y: string;
  /** What each line is, in their order. */
  readonly lines: readonly string[];
  /** Line by line, each from left to right. */
  readonly points: readonly CurvePoint[];
  /** Position of a level that was asked for, and what it is; null: none. */
  readonly limit: { readonly at: number; readonly label: string } | null;
}

export type ChartDefinition = BarChart | Heatmap | ScatterChart | CurveChart;
