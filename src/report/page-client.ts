/// <reference lib="dom" />
/**
 * What runs inside every page. The page carries the text of `runPage`, so the function must not
 * use anything outside itself; names and numbers reach the document as text only, never as markup.
 */
import type { Chart as ChartJs } from "chart.js";
import type { ChartDefinition } from "./chart.ts";
import type { Theme } from "./drawing/tools.ts";
import type { Configure } from "./drawing.ts";

export interface PageData {
  readonly columns: readonly { readonly title: string; readonly align: "left" | "right" }[];
  readonly rows: readonly PageRow[];
  /** Conditions in all; the page may carry fewer. */
  readonly total: number;
  readonly charts: readonly ChartDefinition[];
}

/** Puts new data into the page; what the reader has typed, sorted and chosen stays. */
export type UpdatePage = (data: PageData) => void;

export interface PageRow {
  /** Text of each column. */
  readonly cells: readonly string[];
  /** What each column sorts by; numbers with every digit. */
  readonly keys: readonly (number | string | null)[];
  readonly distinguishable: boolean;
}

/** @param follow in a live page, what fetches new data. */
// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function runPage(
  Chart: typeof ChartJs,
  configure: Configure,
  follow: ((update: UpdatePage) => void) | null,
): void {
  /** Rows put into the document at once: more would block the page. */
  const ROWS_AT_ONCE = 250;
  let data: PageData = JSON.parse(element("data").textContent ?? "");
  const drawn: ChartJs[] = [];
  let dark = matchMedia("(prefers-color-scheme: dark)").matches;

  function element<T extends HTMLElement>(id: string): T {
    const found = document.getElementById(id);
    if (found === null) throw new Error(`the page lacks #${id}`);
    return found as T;
  }

  function create<K extends keyof HTMLElementTagNameMap>(
    tag: K,
    text = "",
    name = "",
  ): HTMLElementTagNameMap[K] {
    const made = document.createElement(tag);
    made.textContent = text;
    if (name !== "") made.className = name;
    return made;
  }

  // ── Charts ─────────────────────────────────────────────────────────────────────────────────
  function themeNow(): Theme {
    const style = getComputedStyle(document.documentElement);
    const value = (name: string) => style.getPropertyValue(name).trim();
    return {
      background: value("--background"),
      text: value("--text"),
      muted: value("--muted"),
      grid: value("--grid"),
      font: value("--font"),
    };
  }

  /** Least width at which every bar and cell can be told apart; narrower screens scroll sideways. */
  function leastWidth(chart: ChartDefinition): number {
    if (chart.type === "heatmap") return 180 + 14 * chart.columns.labels.length;
    if (chart.type === "scatter" || chart.type === "curves") return 320;
    return chart.horizontal ? 420 : 90 + 11 * chart.bars.length;
  }

  /** One figure a chart: its title, canvas, what is read out, and the notes. */
  function buildFigures(): void {
    const figures = data.charts.map(({ type }, index) => {
      const figure = create("figure");
      const canvas = create("canvas");
      canvas.id = `chart-${index}`;
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      const holder = create("div", "", `chart ${type}`);
      holder.append(canvas);
      const scroll = create("div", "", "scroll");
      scroll.append(holder);
      const told = create("div", "", "unseen");
      told.id = `told-${index}`;
      told.setAttribute("role", "status");
      figure.append(create("h3"), scroll, told, create("figcaption"));
      return figure;
    });
    element("charts").replaceChildren(...figures);
    captionFigures();
    element("masking").hidden = !data.charts.some(({ type }) => type === "heatmap");
    data.charts.forEach(makeWalkable);
  }

  /** The words around each chart: they count the blocks and explain the scale, so they change with the data. */
  function captionFigures(): void {
    data.charts.forEach(({ title, description, subtitle, legend, notes }, index) => {
      const canvas = element(`chart-${index}`);
      canvas.setAttribute("aria-label", `${title}. ${description} Arrow keys read the values.`);
      const figure = canvas.closest("figure") as HTMLElement;
      (figure.querySelector("h3") as HTMLElement).textContent = title;
      const lines = [...subtitle, ...legend, ...notes].map((line) => create("div", line));
      figure.querySelector("figcaption")?.replaceChildren(...lines);
    });
  }

  function drawAll(): void {
    for (const chart of drawn.splice(0)) chart.destroy();
    const masked = element<HTMLInputElement>("mask").checked;
    data.charts.forEach((definition, index) => {
      const canvas = element<HTMLCanvasElement>(`chart-${index}`);
      const holder = canvas.parentElement as HTMLElement;
      holder.style.minWidth = `${leastWidth(definition)}px`;
      holder.style.maxWidth = `${Math.max(leastWidth(definition), definition.width * 1.25)}px`;
      // Both axes of a scatter have one scale, so it stays about as high as it is wide.
      if (definition.type === "scatter") holder.style.aspectRatio = "1 / 1.05";
      else holder.style.height = `${definition.height - 70}px`;
      const configuration = configure(definition, { theme: themeNow(), framed: false, masked });
      configuration.options = {
        ...configuration.options,
        responsive: true,
        maintainAspectRatio: false,
        animation: false,
      };
      drawn.push(new Chart(canvas, configuration));
    });
  }

  /** Arrow keys walk over bars, cells and points; what is there is shown and read out. */
  function makeWalkable(definition: ChartDefinition, index: number): void {
    const across = definition.type === "heatmap" ? definition.columns.labels.length : 1;
    const steps: Record<string, number> = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: across,
      ArrowUp: -across,
    };
    const points = () => pointsOf(data.charts[index] ?? definition);
    let at = -1;
    element(`chart-${index}`).addEventListener("keydown", (event) => {
      const step = steps[event.key];
      const chart = drawn[index];
      if (step === undefined || chart === undefined) return;
      event.preventDefault();
      at = Math.max(0, Math.min(points().length - 1, at < 0 ? 0 : at + step));
      const active = [{ datasetIndex: 0, index: at }];
      const place = chart.getDatasetMeta(0).data[at]?.tooltipPosition(true);
      chart.setActiveElements(active);
      chart.tooltip?.setActiveElements(active, { x: place?.x ?? 0, y: place?.y ?? 0 });
      chart.update();
      element(`told-${index}`).textContent = points()[at]?.hover.join(", ") ?? "";
    });
  }

  function pointsOf(definition: ChartDefinition): readonly { readonly hover: readonly string[] }[] {
    if (definition.type === "bars") return definition.bars;
    return definition.type === "heatmap" ? definition.cells : definition.points;
  }

  // ── Table ──────────────────────────────────────────────────────────────────────────────────
  let sorted = { column: 0, ascending: true };
  let shown = ROWS_AT_ONCE;
  const body = element("ranking").querySelector("tbody") as HTMLTableSectionElement;

  function compare(a: PageRow, b: PageRow): number {
    const [left, right] = [a.keys[sorted.column] ?? null, b.keys[sorted.column] ?? null];
    if (left === null || right === null) return left === right ? 0 : left === null ? 1 : -1;
    const order = left < right ? -1 : left > right ? 1 : 0;
    return sorted.ascending ? order : -order;
  }

  function fillTable(): void {
    const wanted = element<HTMLInputElement>("filter").value.trim().toLowerCase();
    const only = element<HTMLInputElement>("only").checked;
    const found = data.rows.filter(
      ({ cells, distinguishable }) =>
        (!only || distinguishable) &&
        (wanted === "" || cells.some((cell) => cell.toLowerCase().includes(wanted))),
    );
    found.sort(compare);
    const rows = found.slice(0, shown).map((row) => {
      const line = create("tr");
      row.cells.forEach((cell, column) => {
        const box = create("td", cell, data.columns[column]?.align === "right" ? "number" : "");
        const key = row.keys[column];
        if (typeof key === "number" && String(key) !== cell) box.title = String(key);
        line.append(box);
      });
      return line;
    });
    body.replaceChildren(...rows);
    const count = element("count");
    count.textContent = `${rows.length} of ${data.total} ${count.dataset.noun} shown`;
    const more = element<HTMLButtonElement>("more");
    more.hidden = rows.length === found.length;
    more.textContent = `Show ${Math.min(ROWS_AT_ONCE, found.length - rows.length)} more`;
  }

  /** Buttons that sort, also again when new data bring other columns. */
  function makeHeader(): void {
    const line = create("tr");
    data.columns.forEach(({ title, align }, column) => {
      const head = create("th", "", align === "right" ? "number" : "");
      head.scope = "col";
      const button = create("button", title === "" ? "*" : title);
      button.type = "button";
      if (title === "") button.setAttribute("aria-label", "distinguishable");
      button.addEventListener("click", () => {
        sorted = { column, ascending: sorted.column === column ? !sorted.ascending : true };
        for (const other of line.children) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", sorted.ascending ? "ascending" : "descending");
        fillTable();
      });
      if (column === sorted.column)
        head.setAttribute("aria-sort", sorted.ascending ? "ascending" : "descending");
      head.append(button);
      line.append(head);
    });
    element("ranking").querySelector("thead")?.replaceChildren(line);
  }

  // ── Theme ──────────────────────────────────────────────────────────────────────────────────
  function setTheme(): void {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    element("theme").textContent = dark ? "Light theme" : "Dark theme";
    drawAll();
  }

  makeHeader();
  fillTable();
  buildFigures();
  setTheme();
  const refill = () => {
    shown = ROWS_AT_ONCE;
    fillTable();
  };
  element("filter").addEventListener("input", refill);
  element("only").addEventListener("change", refill);
  element("more").addEventListener("click", () => {
    shown += ROWS_AT_ONCE;
    fillTable();
  });
  element("mask").addEventListener("change", drawAll);
  element("theme").addEventListener("click", () => {
    dark = !dark;
    setTheme();
  });
  document.getElementById("copy")?.addEventListener("click", () => {
    getSelection()?.selectAllChildren(element("bibtex"));
    document.execCommand("copy");
  });
  // Paper is white, whatever the screen was.
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.theme = "light";
    drawAll();
  });
  addEventListener("afterprint", setTheme);

  follow?.((next) => {
    const shape = ({ columns, charts }: PageData) =>
      JSON.stringify([columns, charts.map(({ name }) => name)]);
    const isNew = shape(next) !== shape(data);
    data = next;
    if (isNew) {
      if (sorted.column >= data.columns.length) sorted = { column: 0, ascending: true };
      makeHeader();
      buildFigures();
    } else captionFigures();
    fillTable();
    drawAll();
  });
}
