/** Pages and pictures of very many conditions: they hold what is largest, and say what they leave out. */
import { expect, it } from "vitest";
import type { Heatmap } from "../../../src/report/chart.ts";
import { chartsFor } from "../../../src/report/charts.ts";
import { MOST_CELLS, MOST_ROWS, strongest } from "../../../src/report/limits.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { facts, head, pageText, sweep } from "../planted.ts";

it("what has the largest effects is kept, in its own order", () => {
  const effects = [
    [3, -5],
    [1, 2],
    [2, 0.1],
    [3, 1],
    [0, 4],
  ] as const;
  expect(strongest(effects, 2)).toEqual({ kept: [0, 3], total: 4 });
  expect(strongest(effects, 9)).toEqual({ kept: [0, 1, 2, 3], total: 4 });
  expect(strongest([], 9)).toEqual({ kept: [], total: 0 });
});

it("a map of more cells than a picture holds shows the layers with the largest effects, and says so", () => {
  const [layers, heads] = [200, 100];
  // Layer 150 has the largest, layer 7 the smallest.
  const mean = (layer: number) => (layer === 150 ? 9 : layer === 7 ? 0 : 1 + layer / 1000);
  const planted = sweep(
    Array.from({ length: layers * heads }, (_, index) => {
      const layer = Math.floor(index / heads);
      return { of: head(layer, index % heads), mean: mean(layer), sd: 0 };
    }),
    2,
  );
  const about = facts({ sweep: "heads", planned_conditions: layers * heads });
  const rows = buildRows(planted.baseline, planted.conditions, about.statistics);
  const map = chartsFor(rows, about)[0] as Heatmap;
  expect(map.cells.length).toBeLessThanOrEqual(MOST_CELLS);
  const shown = Math.floor(MOST_CELLS / heads);
  expect(map.rows.labels).toHaveLength(shown);
  expect(map.rows.labels).toContain("150");
  expect(map.rows.labels).not.toContain("7");
  expect(map.columns.labels).toHaveLength(heads);
  expect(map.notes[0]).toBe(
    `Shown: the ${shown} of 200 layers with the largest effects; 'sparkablate report --format csv' prints all of them.`,
  );

  const page = pageText(rows, about);
  expect(page).toContain("Shown: the 10,000 of 20,000 conditions that the ranking begins with;");
  const data = JSON.parse(
    /<script type="application\/json" id="data">(.*?)<\/script>/s.exec(page)?.[1] ?? "",
  );
  expect(data.rows).toHaveLength(MOST_ROWS);
  expect(data.total).toBe(20_000);
});

it("what fits is whole, and says nothing", () => {
  const planted = sweep(
    Array.from({ length: 128 * 20 }, (_, index) => ({
      of: head(Math.floor(index / 128), index % 128),
      mean: 1,
      sd: 0,
    })),
    2,
  );
  const about = facts({ sweep: "heads", planned_conditions: 128 * 20 });
  const rows = buildRows(planted.baseline, planted.conditions, about.statistics);
  const map = chartsFor(rows, about)[0] as Heatmap;
  expect(map.cells).toHaveLength(128 * 20);
  expect(map.notes.join()).not.toContain("Shown:");
  expect(pageText(rows, about)).not.toContain("Shown: the");
  // The largest model there is, 126 layers of 128 heads.
  expect(126 * 128).toBeLessThanOrEqual(MOST_CELLS);
});
