/** A layer × head map: colour for Δ NLL, a sign for how far it may be trusted. */
import type { Chart as ChartJs, Plugin } from "chart.js";
import type { Heatmap, Point } from "../chart.ts";
import type { DrawingTools, Look, Theme } from "./tools.ts";

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function heatmapDrawing(tools: DrawingTools): (definition: Heatmap, look: Look) => unknown {
  const { axisTitle, diverging, framePlugin, headings, hover, noteSpace } = tools;

  function draw(definition: Heatmap, { theme, framed, masked }: Look): unknown {
    const { scale, cells } = definition;
    const reach = Math.max(scale.max, -scale.min);
    const color = ({ at, mark }: Point) =>
      at === null || (masked && (mark === "unmarked" || mark === "doubted"))
        ? theme.background
        : diverging(at / reach);
    const notes = framed ? [...definition.legend, ...definition.notes] : [];
    const size = (count: number, axis: "width" | "height") => (context: { chart: ChartJs }) =>
      Math.max(1, (context.chart.chartArea?.[axis] ?? 0) / count - 1);
    const axis = (side: Heatmap["rows"]) => ({
      type: "category",
      offset: true,
      labels: [...side.labels],
      title: axisTitle(side.title, theme),
      grid: { display: false },
      border: { display: false },
      ticks: {
        color: theme.text,
        font: { family: theme.font, size: 10 },
        minRotation: side.upright ? 90 : 0,
        maxRotation: side.upright ? 90 : 0,
        autoSkip: true,
        autoSkipPadding: 4,
      },
    });
    return {
      type: "matrix",
      data: {
        datasets: [
          {
            label: definition.title,
            data: cells.map(({ column, row }) => ({ x: column, y: row })),
            backgroundColor: cells.map(color),
            borderColor: cells.map((cell) =>
              cell.mark === "failed" ? theme.muted : "rgba(128, 128, 128, 0.25)",
            ),
            borderWidth: 1,
            width: size(definition.columns.labels.length, "width"),
            height: size(definition.rows.labels.length, "height"),
          },
        ],
      },
      options: {
        layout: {
          padding: {
            top: framed ? 12 : 4,
            left: 12,
            right: 104,
            bottom: 12 + noteSpace(notes, definition.width),
          },
        },
        scales: { x: axis(definition.columns), y: axis(definition.rows) },
        plugins: {
          ...headings(definition, theme, framed),
          legend: { display: false },
          tooltip: hover(cells),
        },
      },
      plugins: [
        framePlugin(theme, notes),
        cellMarksPlugin(definition, theme, masked),
        colorBarPlugin(definition, theme),
      ],
    };
  }

  /** A dot on what is not distinguishable, a ring on what is doubted, a cross on what failed. */
  function cellMarksPlugin({ cells, scale }: Heatmap, theme: Theme, masked: boolean): Plugin {
    const reach = Math.max(scale.max, -scale.min);
    return {
      id: "cell marks",
      afterDatasetsDraw({ ctx, scales, chartArea }) {
        const { x, y } = scales;
        if (!x || !y) return;
        const side = Math.min(
          chartArea.width / (x.ticks.length || 1),
          chartArea.height / (y.ticks.length || 1),
        );
        const radius = Math.max(1.1, Math.min(2.2, side / 11));
        ctx.save();
        ctx.font = `bold 11px ${theme.font}`;
        ctx.textAlign = "center";
        ctx.textBaseline = "middle";
        for (const cell of cells) {
          if (cell.mark === "distinguishable" || cell.mark === "untested") continue;
          if (masked && cell.mark !== "failed") continue;
          const left = x.getPixelForValue(x.getLabels().indexOf(cell.column));
          const top = y.getPixelForValue(y.getLabels().indexOf(cell.row));
          const ink = cell.at !== null && Math.abs(cell.at / reach) > 0.6 ? "#ffffff" : "#333333";
          ctx.fillStyle = ink;
          ctx.strokeStyle = ink;
          if (cell.mark === "failed") {
            ctx.fillStyle = theme.text;
            ctx.fillText("×", left, top);
            continue;
          }
          ctx.beginPath();
          ctx.arc(left, top, cell.mark === "doubted" ? radius * 1.6 : radius, 0, 2 * Math.PI);
          if (cell.mark === "doubted") ctx.stroke();
          else ctx.fill();
        }
        ctx.restore();
      },
    };
  }

  function colorBarPlugin({ scale, value }: Heatmap, theme: Theme): Plugin {
    const reach = Math.max(scale.max, -scale.min);
    return {
      id: "color bar",
      afterDraw({ ctx, chartArea }) {
        const left = chartArea.right + 18;
        const height = Math.min(chartArea.height, 320);
        const top = chartArea.top + (chartArea.height - height) / 2;
        const level = (at: number) => top + ((1 - at / reach) / 2) * height;
        ctx.save();
        const gradient = ctx.createLinearGradient(0, top + height, 0, top);
        for (let index = 0; index <= 20; index++)
          gradient.addColorStop(index / 20, diverging(index / 10 - 1));
        ctx.fillStyle = gradient;
        ctx.fillRect(left, top, 14, height);
        ctx.strokeStyle = theme.muted;
        ctx.strokeRect(left, top, 14, height);
        ctx.fillStyle = theme.text;
        ctx.font = `10px ${theme.font}`;
        ctx.textBaseline = "middle";
        for (const { at, label } of scale.ticks) {
          ctx.fillRect(left + 14, level(at), 4, 1);
          ctx.fillText(label, left + 21, level(at));
        }
        ctx.translate(left + 76, top + height / 2);
        ctx.rotate(-Math.PI / 2);
        ctx.textAlign = "center";
        ctx.font = `11px ${theme.font}`;
        ctx.fillText(scale.kind === "symlog" ? `${value}, symlog` : value, 0, 0);
        ctx.restore();
      },
    };
  }

  return draw;
}
