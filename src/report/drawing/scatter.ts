/** Two runs against each other: one condition a point, the line where both say the same. */
import type { Chart as ChartJs, Plugin } from "chart.js";
import type { ScatterChart } from "../chart.ts";
import type { Mark } from "../marks.ts";
import type { DrawingTools, Look, Theme } from "./tools.ts";

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function scatterDrawing(tools: DrawingTools): (definition: ScatterChart, look: Look) => unknown {
  const { MARKS, framePlugin, headings, hover, markLegend, noteSpace, valueAxis } = tools;
  const LABELS: Record<Mark, string> = {
    distinguishable: "they differ distinguishably",
    doubted: "q ≤ 0.05, but flagged",
    unmarked: "no distinguishable difference",
    untested: "not tested",
    failed: "failed",
  };
  /** Room between a point and its name, CSS pixels. */
  const GAP = 7;

  function draw(definition: ScatterChart, { theme, framed }: Look): unknown {
    const { points, scale } = definition;
    const notes = framed ? definition.notes : [];
    return {
      type: "scatter",
      data: {
        datasets: [
          {
            label: definition.title,
            data: points.map(({ x, y }) => ({ x, y })),
            pointBackgroundColor: points.map(({ mark }) => MARKS[mark].fill),
            pointBorderColor: points.map(({ mark }) => MARKS[mark].border),
            pointBorderWidth: 1,
            pointRadius: points.length > 400 ? 2.5 : 4,
            pointHoverRadius: 6,
          },
        ],
      },
      options: {
        layout: {
          padding: {
            top: framed ? 12 : 4,
            left: 12,
            right: 20,
            bottom: 12 + noteSpace(notes, definition.width),
          },
        },
        scales: {
          x: valueAxis(scale, definition.x, theme),
          y: valueAxis(scale, definition.y, theme),
        },
        plugins: {
          ...headings(definition, theme, framed),
          legend: markLegend(
            points.map(({ mark }) => mark),
            LABELS,
            theme,
          ),
          tooltip: hover(points),
        },
      },
      plugins: [framePlugin(theme, notes), equalityPlugin(theme), namesPlugin(definition, theme)],
    };
  }

  /** Both axes have one scale, so that equal effects lie on the diagonal. */
  function equalityPlugin(theme: Theme): Plugin {
    return {
      id: "equality",
      beforeDatasetsDraw({ ctx, chartArea: { left, right, top, bottom } }) {
        ctx.save();
        ctx.strokeStyle = theme.muted;
        ctx.setLineDash([5, 4]);
        ctx.beginPath();
        ctx.moveTo(left, bottom);
        ctx.lineTo(right, top);
        ctx.stroke();
        ctx.restore();
      },
    };
  }

  /** Names of the largest disagreements, where no earlier name is in the way. */
  function namesPlugin({ points }: ScatterChart, theme: Theme): Plugin {
    return {
      id: "names",
      afterDatasetsDraw(chart: ChartJs) {
        const { ctx, chartArea, scales } = chart;
        const taken: { left: number; right: number; y: number }[] = [];
        ctx.save();
        ctx.font = `10px ${theme.font}`;
        ctx.fillStyle = theme.text;
        ctx.textBaseline = "middle";
        for (const { x, y, named, condition } of points) {
          if (!named || !scales.x || !scales.y) continue;
          const at = { x: scales.x.getPixelForValue(x), y: scales.y.getPixelForValue(y) };
          const width = ctx.measureText(condition).width;
          const fits = at.x + GAP + width < chartArea.right;
          const left = fits ? at.x + GAP : at.x - GAP - width;
          const inTheWay = taken.some(
            (box) => Math.abs(box.y - at.y) < 11 && box.left < left + width && left < box.right,
          );
          if (inTheWay || left < chartArea.left) continue;
          taken.push({ left, right: left + width, y: at.y });
          ctx.fillText(condition, left, at.y);
        }
        ctx.restore();
      },
    };
  }

  return draw;
}
