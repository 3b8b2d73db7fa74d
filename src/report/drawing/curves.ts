/** Lines with bands: a value, with its interval, against what it was bought with. */
import type { Chart as ChartJs, Plugin } from "chart.js";
import type { CurveChart, CurvePoint } from "../chart.ts";
import type { DrawingTools, Look, Theme } from "./tools.ts";

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function curveDrawing(tools: DrawingTools): (definition: CurveChart, look: Look) => unknown {
  const { framePlugin, headings, hover, noteSpace, valueAxis } = tools;
  /** Okabe and Ito's, at least 3 to 1 on both themes; each with a sign and a dash of its own. */
  const LOOKS = [
    { color: "#0072b2", sign: "circle", dash: [] },
    { color: "#d55e00", sign: "rect", dash: [8, 3] },
    { color: "#009e73", sign: "triangle", dash: [3, 3] },
    { color: "#cc79a7", sign: "rectRot", dash: [9, 3, 2, 3] },
  ] as const;
  const lookOf = (line: number) => LOOKS[line % LOOKS.length] ?? LOOKS[0];
  const colors = (points: readonly CurvePoint[]) => points.map(({ line }) => lookOf(line).color);

  function draw(definition: CurveChart, { theme, framed }: Look): unknown {
    const { points, lines, scale, across } = definition;
    const notes = framed ? definition.notes : [];
    return {
      type: "scatter",
      data: {
        datasets: [
          {
            label: definition.title,
            data: points.map(({ x, y }) => ({ x, y })),
            pointBackgroundColor: colors(points),
            pointBorderColor: colors(points),
            pointStyle: points.map(({ line }) => lookOf(line).sign),
            pointRadius: points.map(({ chosen }) => (chosen ? 8 : 4)),
            pointHoverRadius: 9,
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
          x: valueAxis(across, definition.x, theme),
          y: valueAxis(scale, definition.y, theme),
        },
        plugins: {
          ...headings(definition, theme, framed),
          legend: {
            position: "top",
            align: "start",
            onClick: () => {},
            labels: {
              usePointStyle: true,
              boxWidth: 8,
              boxHeight: 8,
              font: { family: theme.font, size: 11 },
              generateLabels: () =>
                lines.map((text, line) => ({
                  text,
                  fillStyle: lookOf(line).color,
                  strokeStyle: lookOf(line).color,
                  pointStyle: lookOf(line).sign,
                  fontColor: theme.text,
                  lineWidth: 1,
                })),
            },
          },
          tooltip: hover(points),
        },
      },
      plugins: [framePlugin(theme, notes), linesPlugin(definition, theme)],
    };
  }

  /** Under the points: each line, the band of its intervals, and the level that was asked for. */
  function linesPlugin({ lines, points, limit }: CurveChart, theme: Theme): Plugin {
    return {
      id: "lines",
      beforeDatasetsDraw({ ctx, chartArea: { left, right, top, bottom }, scales: { x, y } }: ChartJs) {
        if (x === undefined || y === undefined) return;
        const path = (places: readonly (readonly [number, number])[]) => {
          ctx.beginPath();
          for (const [across, up] of places) ctx.lineTo(x.getPixelForValue(across), y.getPixelForValue(up));
        };
        ctx.save();
        ctx.beginPath();
        ctx.rect(left, top, right - left, bottom - top);
        ctx.clip();
        for (const line of lines.keys()) {
          const { color, dash } = lookOf(line);
          const own = points.filter((point) => point.line === line);
          ctx.fillStyle = color;
          ctx.strokeStyle = color;
          ctx.globalAlpha = 0.18;
          path([
            ...own.map((point) => [point.x, point.high ?? point.y] as const),
            ...own.toReversed().map((point) => [point.x, point.low ?? point.y] as const),
          ]);
          ctx.fill();
          ctx.globalAlpha = 1;
          ctx.lineWidth = 2;
          ctx.setLineDash([...dash]);
          path(own.map((point) => [point.x, point.y] as const));
          ctx.stroke();
        }
        if (limit !== null) {
          const level = y.getPixelForValue(limit.at);
          ctx.strokeStyle = theme.text;
          ctx.lineWidth = 1;
          ctx.setLineDash([5, 4]);
          ctx.beginPath();
          ctx.moveTo(left, level);
          ctx.lineTo(right, level);
          ctx.stroke();
          ctx.font = `11px ${theme.font}`;
          ctx.fillStyle = theme.text;
          ctx.textBaseline = level - top < 18 ? "top" : "bottom";
          ctx.fillText(limit.label, left + 6, level + (level - top < 18 ? 3 : -3));
        }
        ctx.restore();
      },
    };
  }

  return draw;
}
