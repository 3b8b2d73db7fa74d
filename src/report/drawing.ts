/**
 * Chart definition → Chart.js configuration, for the PNG files and, word for word, for the page:
 * the page carries the text of `drawing`, so the function must not use anything outside itself.
 */
import type { ChartConfiguration, Chart as ChartJs, Plugin } from "chart.js";
import type { BarChart, ChartDefinition, Heatmap, Mark, Point } from "./charts.ts";

export interface Theme {
  readonly background: string;
  readonly text: string;
  readonly muted: string;
  readonly grid: string;
  readonly font: string;
}

export interface Look {
  readonly theme: Theme;
  /** Title, subtitle and notes inside the picture; the page has them as text around it. */
  readonly framed: boolean;
  /** Shows only what is distinguishable in a heatmap. */
  readonly masked: boolean;
}

export interface Drawing {
  configure(definition: ChartDefinition, look: Look): ChartConfiguration;
}

export function drawing(): Drawing {
  /** ColorBrewer's RdBu, safe for colour-blind readers: blue improves, red harms, white is 0. */
  const DIVERGING = [
    "#053061",
    "#2166ac",
    "#4393c3",
    "#92c5de",
    "#d1e5f0",
    "#f7f7f7",
    "#fddbc7",
    "#f4a582",
    "#d6604d",
    "#b2182b",
    "#67001f",
  ];
  const MARKS: Record<Mark, { label: string; fill: string; border: string }> = {
    distinguishable: { label: "distinguishable from 0", fill: "#0072b2", border: "#0072b2" },
    doubted: { label: "q ≤ 0.05, but flagged", fill: "#a6cee3", border: "#0072b2" },
    unmarked: { label: "not distinguishable", fill: "#d9d9d9", border: "#8c8c8c" },
    untested: { label: "not tested (stop:)", fill: "#56b4e9", border: "#0072b2" },
    failed: { label: "failed", fill: "#ffffff", border: "#8c8c8c" },
  };
  const UNIT = "Δ NLL (nats per token)";
  const NOTE_LINE = 15;

  /** @param t −1 … 1 */
  function diverging(t: number): string {
    const position = ((Math.max(-1, Math.min(1, t)) + 1) / 2) * (DIVERGING.length - 1);
    const index = Math.min(DIVERGING.length - 2, Math.floor(position));
    const [from, to] = [DIVERGING[index] as string, DIVERGING[index + 1] as string];
    const channel = (offset: number) => {
      const a = Number.parseInt(from.slice(offset, offset + 2), 16);
      const b = Number.parseInt(to.slice(offset, offset + 2), 16);
      return Math.round(a + (b - a) * (position - index));
    };
    return `rgb(${channel(1)}, ${channel(3)}, ${channel(5)})`;
  }

  function wrap(context: ChartJs["ctx"], text: string, width: number): string[] {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines[lines.length - 1] === "" ? word : `${lines[lines.length - 1]} ${word}`;
      if (lines[lines.length - 1] !== "" && context.measureText(longer).width > width) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    return lines;
  }

  /** Background, and the notes under the picture. */
  function framePlugin(theme: Theme, notes: readonly string[]): Plugin {
    return {
      id: "frame",
      beforeDraw({ ctx, width, height }) {
        ctx.save();
        ctx.fillStyle = theme.background;
        ctx.fillRect(0, 0, width, height);
        ctx.restore();
      },
      afterDraw({ ctx, width, height }) {
        ctx.save();
        ctx.font = `11px ${theme.font}`;
        ctx.fillStyle = theme.muted;
        ctx.textBaseline = "bottom";
        const lines = notes.flatMap((note) => wrap(ctx, note, width - 32));
        lines.forEach((line, index) => {
          ctx.fillText(line, 16, height - 8 - NOTE_LINE * (lines.length - 1 - index));
        });
        ctx.restore();
      },
    };
  }

  /** Lines the notes will need, by a careful guess of the text's width. */
  function noteSpace(notes: readonly string[], width: number): number {
    const perLine = Math.floor((width - 32) / 5.9);
    return notes.reduce((lines, note) => lines + Math.ceil(note.length / perLine), 0) * NOTE_LINE;
  }

  function headings(definition: ChartDefinition, theme: Theme, framed: boolean) {
    const text = (
      lines: string | readonly string[],
      size: number,
      weight: "bold" | "normal",
      color: string,
      bottom: number,
    ) => ({
      display: framed,
      text: typeof lines === "string" ? lines : [...lines],
      color,
      align: "start" as const,
      font: { family: theme.font, size, weight },
      padding: { top: 0, bottom },
    });
    return {
      title: text(definition.title, 15, "bold", theme.text, 4),
      subtitle: text(definition.subtitle, 12, "normal", theme.muted, 10),
    };
  }

  function axisTitle(text: string, theme: Theme) {
    return { display: true, text, color: theme.text, font: { family: theme.font, size: 12 } };
  }

  function hover(points: readonly Point[]) {
    return {
      displayColors: false,
      callbacks: {
        title: () => "",
        label: ({ dataIndex }: { dataIndex: number }) => [...(points[dataIndex]?.hover ?? [])],
      },
    };
  }

  function bars(definition: BarChart, { theme, framed }: Look): unknown {
    const { scale, horizontal } = definition;
    const [along, across] = horizontal ? (["x", "y"] as const) : (["y", "x"] as const);
    const present = (Object.keys(MARKS) as Mark[]).filter((mark) =>
      definition.bars.some((bar) => bar.mark === mark),
    );
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
    const values = {
      type: "linear",
      min: scale.min,
      max: scale.max,
      title: axisTitle(scale.kind === "symlog" ? `${UNIT}, symlog` : UNIT, theme),
      grid: {
        color: (context: { tick?: { value: number } }) =>
          context.tick?.value === 0 ? theme.muted : theme.grid,
      },
      border: { display: false },
      ticks: {
        color: theme.text,
        font: { family: theme.font, size: 11 },
        maxRotation: 0,
        callback: (value: number) => scale.ticks.find(({ at }) => Math.abs(at - value) < 1e-9)?.label ?? "",
      },
      afterBuildTicks: (axis: { ticks: { value: number }[] }) => {
        axis.ticks = scale.ticks.map(({ at }) => ({ value: at }));
      },
    };
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
          legend: {
            position: "top",
            align: "start",
            onClick: () => {},
            labels: {
              boxWidth: 14,
              boxHeight: 10,
              font: { family: theme.font, size: 11 },
              generateLabels: () =>
                present.map((mark) => ({
                  text: mark === "failed" ? `× ${MARKS[mark].label}` : MARKS[mark].label,
                  fillStyle: MARKS[mark].fill,
                  strokeStyle: MARKS[mark].border,
                  fontColor: theme.text,
                  lineWidth: 1,
                })),
            },
          },
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

  function heatmap(definition: Heatmap, { theme, framed, masked }: Look): unknown {
    const { scale, cells } = definition;
    const reach = Math.max(scale.max, -scale.min);
    const color = ({ at, mark }: Point) =>
      at === null || (masked && (mark === "unmarked" || mark === "doubted"))
        ? theme.background
        : diverging(at / reach);
    const notes = framed ? [...definition.legend, ...definition.notes] : [];
    const size = (count: number, axis: "width" | "height") => (context: { chart: ChartJs }) =>
      Math.max(1, (context.chart.chartArea?.[axis] ?? 0) / count - 1);
    const axis = (side: Heatmap["rows"], reverse: boolean) => ({
      type: "category",
      offset: true,
      reverse,
      labels: [...side.labels],
      title: axisTitle(side.title, theme),
      grid: { display: false },
      border: { display: false },
      ticks: {
        color: theme.text,
        font: { family: theme.font, size: 10 },
        maxRotation: 0,
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
        scales: { x: axis(definition.columns, false), y: axis(definition.rows, false) },
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

  function colorBarPlugin({ scale }: Heatmap, theme: Theme): Plugin {
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
        ctx.fillText(scale.kind === "symlog" ? `${UNIT}, symlog` : UNIT, 0, 0);
        ctx.restore();
      },
    };
  }

  return {
    configure(definition, look) {
      const configuration = definition.type === "bars" ? bars(definition, look) : heatmap(definition, look);
      return configuration as ChartConfiguration;
    },
  };
}
