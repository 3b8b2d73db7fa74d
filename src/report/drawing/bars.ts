/** Bars with error bars: one condition a bar. */
import type { Plugin } from "chart.js";
import type { BarChart } from "../chart.ts";
import type { Mark } from "../marks.ts";
import type { DrawingTools, Look, Theme } from "./tools.ts";

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function barDrawing(tools: DrawingTools): (definition: BarChart, look: Look) => unknown {
  const { MARKS, UNIT, axisTitle, framePlugin, headings, hover, markLegend, noteSpace, valueAxis } = tools;
  const LABELS: Record<Mark, string> = {
    distinguishable: "distinguishable from 0",
    doubted: "q ≤ 0.05, but flagged",
    unmarked: "not distinguishable",
    untested: "not tested (stop:)",
    failed: "failed",
  };

  function draw(definition: BarChart, { theme, framed }: Look): unknown {
    const { scale, horizontal } = definition;
    const [along, across] = horizontal ? (["x", "y"] as const) : (["y", "x"] as const);
    const notes = framed ? definition.notes : [];
    const categories = {
      type: "category",
      labels: definition.bars.map(({ label }) => label),
      title: { ...axisTitle(definition.category, theme), display: !horizontal },
      grid: { display: false },
      border: { color: theme.grid },
      ticks: {
        color: theme.text,
        font: { family: theme.font, size: 11 },
        autoSkip: !horizontal,
        maxRotation: 0,
      },
    };
    const values = valueAxis(scale, UNIT, theme);
    return {
      type: "barWithErrorBars",
      data: {
        labels: categories.labels,
        datasets: [
          {
            label: UNIT,
            backgroundColor: definition.bars.map(({ mark }) => MARKS[mark].fill),
            borderColor: definition.bars.map(({ mark }) => MARKS[mark].border),
            borderWidth: 1,
            barPercentage: 0.95,
            categoryPercentage: 0.85,
            errorBarColor: theme.text,
            errorBarWhiskerColor: theme.text,
            errorBarLineWidth: 1,
            errorBarWhiskerLineWidth: 1,
            errorBarWhiskerRatio: 0.4,
            // Chart.js puts the n-th element at the n-th category: one element for every label, in order.
            data: definition.bars.map((bar) => ({
              [across]: bar.label,
              [along]: bar.at ?? 0,
              ...(bar.low === null ? {} : { [`${along}Min`]: bar.low, [`${along}Max`]: bar.high }),
            })),
          },
        ],
      },
      options: {
        indexAxis: across,
        layout: {
          padding: {
            top: framed ? 12 : 4,
            left: 12,
            right: 16,
            bottom: 12 + noteSpace(notes, definition.width),
          },
        },
        scales: { [across]: categories, [along]: values },
        plugins: {
          ...headings(definition, theme, framed),
          legend: markLegend(
            definition.bars.map(({ mark }) => mark),
            LABELS,
            theme,
          ),
          tooltip: hover(definition.bars),
        },
      },
      plugins: [framePlugin(theme, notes), failedPlugin(definition, theme)],
    };
  }

  /** A cross where a condition failed: an empty place would read as "no effect". */
  function failedPlugin({ bars: all, horizontal }: BarChart, theme: Theme): Plugin {
    return {
      id: "failed",
      afterDatasetsDraw({ ctx, scales }) {
        const [along, across] = horizontal ? [scales.x, scales.y] : [scales.y, scales.x];
        ctx.save();
        ctx.font = `bold 12px ${theme.font}`;
        ctx.fillStyle = theme.text;
        ctx.textAlign = "center";
        ctx.textBaseline = "middle";
        all.forEach((bar, index) => {
          if (bar.mark !== "failed" || !along || !across) return;
          const [zero, place] = [along.getPixelForValue(0), across.getPixelForValue(index)];
          if (horizontal) ctx.fillText("×", zero + 8, place);
          else ctx.fillText("×", place, zero - 8);
        });
        ctx.restore();
      },
    };
  }

  return draw;
}
