import { createCanvas, loadImage } from "@napi-rs/canvas";
import { describe, expect, test } from "vitest";
import type { BarChart, Heatmap } from "../../../src/report/chart.ts";
import { chartsFor } from "../../../src/report/charts.ts";
import { renderPng } from "../../../src/report/png.ts";
import { place, scaleFor } from "../../../src/report/scale.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { condition, facts, head, measured, skip, sweep } from "../planted.ts";

const SETTINGS = { correction: "bh", floor: null } as const;

function rowsOf(effects: Parameters<typeof sweep>[0], blocks = 32) {
  const { baseline, conditions } = sweep(effects, blocks);
  return buildRows(baseline, conditions, SETTINGS);
}

/** Colour at a share of the picture's width and height. */
async function pixels(png: Buffer) {
  const image = await loadImage(png);
  const context = createCanvas(image.width, image.height).getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const at = (x: number, y: number) => [
    ...data.slice(4 * (y * image.width + x), 4 * (y * image.width + x) + 3),
  ];
  return { width: image.width, height: image.height, at };
}

describe("scales", () => {
  test("similar effects: linear, with 0 and both ends on the axis", () => {
    const scale = scaleFor([0.1, 0.2, -0.05], [0.1, 0.25, -0.08], false);
    expect(scale.kind).toBe("linear");
    expect(scale.min).toBeLessThanOrEqual(-0.08);
    expect(scale.max).toBeGreaterThanOrEqual(0.25);
    expect(scale.ticks.map(({ label }) => label)).toContain("0");
    for (const { at, label } of scale.ticks) expect(Number(label.replace("−", "-"))).toBeCloseTo(at, 12);
  });

  test("a few effects dwarf the rest: symmetric logarithm, monotone, odd, labelled with values", () => {
    const effects = [9, 0.05, 0.04, 0.06, -0.03];
    const scale = scaleFor(effects, effects, false);
    expect(scale.kind).toBe("symlog");
    const sorted = [-1, -0.01, 0, 0.001, 0.05, 0.06, 9];
    const positions = sorted.map((value) => place(scale, value));
    expect(positions).toEqual([...positions].sort((a, b) => a - b));
    expect(place(scale, -0.3)).toBe(-place(scale, 0.3));
    for (const { at, label } of scale.ticks) {
      expect(place(scale, Number(label.replace("−", "-")))).toBeCloseTo(at, 9);
    }
  });

  test("nothing changed at all still makes an axis", () => {
    const scale = scaleFor([0, 0], [0, 0], true);
    expect(scale.max).toBeGreaterThan(scale.min);
    expect(scale.ticks.length).toBeGreaterThan(1);
  });
});

describe("bars over layers", () => {
  const effects = Array.from({ length: 12 }, (_, layer) => ({
    of: skip(layer),
    mean: layer === 7 ? 0.9 : layer === 3 ? 0.0001 : 0.1,
    sd: 0.02,
  }));
  const rows = rowsOf(effects);
  const [chart] = chartsFor(rows, facts()) as [BarChart];

  test("one bar a layer, in order, at its Δ NLL, with its interval and mark", () => {
    expect(chart.bars.map(({ label }) => label)).toEqual(effects.map((_, layer) => String(layer)));
    expect(chart.bars.map(({ at }) => at)).toEqual(rows.slice(1).map((row) => row.delta_nll));
    expect(chart.bars.map(({ low, high }) => [low, high])).toEqual(rows.slice(1).map((row) => row.ci95));
    expect(chart.bars[3]?.mark).toBe("unmarked");
    expect(chart.bars[7]?.mark).toBe("distinguishable");
  });

  test("in the picture the tall bar stands over layer 7 and nowhere else, also after a failed one", async () => {
    const failed = measured(skip(2), [], { error: { code: "out_of_memory", message: "" } });
    const { baseline, conditions } = sweep(effects, 32);
    const [withFailure] = chartsFor(
      buildRows(baseline, [...conditions.slice(0, 2), failed, ...conditions.slice(3)], SETTINGS),
      facts(),
    ) as [BarChart];
    expect(withFailure.bars[2]).toMatchObject({ mark: "failed", at: null });
    const { width, height, at } = await pixels(renderPng(withFailure));
    expect([width, height]).toEqual([2 * withFailure.width, 2 * withFailure.height]);
    // A line at half the tall bar's height meets the blue of one bar alone.
    const blue = Array.from({ length: width }, (_, x) => x).filter((x) => {
      const [red = 0, green = 0, blueness = 0] = at(x, Math.round(height * 0.5));
      return red < 40 && green > 90 && green < 140 && blueness > 150;
    });
    const [first, last] = [blue[0] as number, blue.at(-1) as number];
    expect(last - first).toBeLessThan(width / 12);
    const middle = (first + last) / 2 / width;
    // Axis from about 8 % to 99 % of the width: layer 7 of 12 is centred at 65 %.
    expect(middle).toBeGreaterThan(0.6);
    expect(middle).toBeLessThan(0.7);
  });
});

test("a head sweep: a layer × head map and a ranking", () => {
  const effects = [0, 1, 2].flatMap((layer) =>
    [0, 1].map((index) => ({ of: head(layer, index), mean: layer - index, sd: 0.1 })),
  );
  const [map, ranking] = chartsFor(rowsOf(effects), facts({ sweep: "heads" })) as [Heatmap, BarChart];
  expect(map.rows.labels).toEqual(["0", "1", "2"]);
  expect(map.columns.labels).toEqual(["0", "1"]);
  expect(map.scale.max).toBe(-map.scale.min);
  for (const cell of map.cells) {
    expect(cell.at).toBeCloseTo(place(map.scale, Number(cell.row) - Number(cell.column)), 9);
  }
  expect(ranking.bars[0]?.label).toBe("L2.head[0].zero");
  expect(renderPng(map).length).toBeGreaterThan(10_000);
});

test("a key/value group sweep takes its columns from the groups", () => {
  const group = (layer: number, index: number) =>
    condition(`L${layer}.kv_group[${index}].zero`, {
      kind: "kv_group",
      layer,
      groups: [index],
      mode: "zero",
      positions: "all",
    });
  const effects = [0, 1, 2].map((index) => ({ of: group(4, index), mean: 0.1 * index, sd: 0.1 }));
  const [map] = chartsFor(rowsOf(effects), facts({ sweep: "kv_groups" })) as [Heatmap];
  expect(map.columns.labels).toEqual(["0", "1", "2"]);
  expect(map.rows.labels).toEqual(["4"]);
});

test("an outlier's chart says that its scale is logarithmic", () => {
  const effects = Array.from({ length: 8 }, (_, layer) => ({
    of: skip(layer),
    mean: layer === 0 ? 8 : 0.05,
    sd: 0.01,
  }));
  const [chart] = chartsFor(rowsOf(effects), facts()) as [BarChart];
  expect(chart.scale.kind).toBe("symlog");
  expect(chart.notes.join(" ")).toContain("logarithmic beyond");
});

test("nothing measured, nothing drawn", () => {
  expect(chartsFor(rowsOf([]), facts())).toEqual([]);
});
