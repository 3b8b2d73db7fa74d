/// <reference lib="dom" />
/**
 * What the charts share: colours, headings, notes. The page carries the text of each drawing function, so none of
 * them may use anything outside itself but what it is given.
 */
import type { Chart as ChartJs, Plugin } from "chart.js";
import type { ChartDefinition } from "../chart.ts";
import type { Mark } from "../marks.ts";
import type { Scale } from "../scale.ts";

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

export type DrawingTools = ReturnType<typeof drawingTools>;

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function drawingTools() {
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
  const MARKS: Record<Mark, { fill: string; border: string }> = {
    distinguishable: { fill: "#0072b2", border: "#0072b2" },
    doubted: { fill: "#a6cee3", border: "#0072b2" },
    unmarked: { fill: "#d9d9d9", border: "#8c8c8c" },
    untested: { fill: "#56b4e9", border: "#0072b2" },
    failed: { fill: "#ffffff", border: "#8c8c8c" },
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

  function hover(points: readonly { readonly hover: readonly string[] }[]) {
    return {
      displayColors: false,
      callbacks: {
        title: () => "",
        label: ({ dataIndex }: { dataIndex: number }) => [...(points[dataIndex]?.hover ?? [])],
      },
    };
  }

  /** An axis of Δ NLL: the scale's ticks, with the line at 0 stronger. */
  function valueAxis(scale: Scale, title: string, theme: Theme) {
    return {
      type: "linear",
      min: scale.min,
      max: scale.max,
      title: axisTitle(scale.kind === "symlog" ? `${title}, symlog` : title, theme),
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
  }

  /** The marks that occur, as Chart.js' legend; it filters nothing. */
  function markLegend(marks: readonly Mark[], labels: Record<Mark, string>, theme: Theme) {
    const present = (Object.keys(MARKS) as Mark[]).filter((mark) => marks.includes(mark));
    return {
      position: "top",
      align: "start",
      onClick: () => {},
      labels: {
        boxWidth: 14,
        boxHeight: 10,
        font: { family: theme.font, size: 11 },
        generateLabels: () =>
          present.map((mark) => ({
            text: mark === "failed" ? `× ${labels[mark]}` : labels[mark],
            fillStyle: MARKS[mark].fill,
            strokeStyle: MARKS[mark].border,
            fontColor: theme.text,
            lineWidth: 1,
          })),
      },
    };
  }

  return {
    MARKS,
    UNIT,
    diverging,
    framePlugin,
    noteSpace,
    headings,
    axisTitle,
    hover,
    markLegend,
    valueAxis,
  };
}
