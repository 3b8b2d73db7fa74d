/**
 * Chart definitions → Chart.js configurations, for the PNG files and, as text, for the page. One row a type of chart.
 */
import type { ChartConfiguration } from "chart.js";
import type { ChartDefinition } from "./chart.ts";
import { barDrawing } from "./drawing/bars.ts";
import { curveDrawing } from "./drawing/curves.ts";
import { heatmapDrawing } from "./drawing/heatmap.ts";
import { scatterDrawing } from "./drawing/scatter.ts";
import { type DrawingTools, drawingTools, type Look } from "./drawing/tools.ts";

export type Configure = (definition: ChartDefinition, look: Look) => ChartConfiguration;

type Drawings = { readonly [T in ChartDefinition["type"]]: (tools: DrawingTools) => unknown };

const DRAWINGS: Drawings = {
  bars: barDrawing,
  heatmap: heatmapDrawing,
  scatter: scatterDrawing,
  curves: curveDrawing,
};

export function drawing(): Configure {
  return assemble(drawingTools(), DRAWINGS);
}

/** An expression whose value in a browser is what `drawing` returns here. */
export function drawingScript(): string {
  const rows = Object.entries(DRAWINGS).map(([type, make]) => `${type}: ${make.toString()}`);
  return `(${assemble.toString()})((${drawingTools.toString()})(), {${rows.join(", ")}})`;
}

function assemble(tools: DrawingTools, drawings: Drawings): Configure {
  return (definition, look) => {
    const draw = drawings[definition.type](tools) as Configure;
    return draw(definition, look);
  };
}
