/** Which neurons are measured together, and how many go at a step. */
import { describe, expect, test } from "vitest";
import { neuronBlocks, neuronSteps } from "../../../src/prune/neuron-blocks.ts";

/** Widths that remain after each step. */
const left = (width: number, align: number): number[] => {
  const { block, takes } = neuronSteps(width, align);
  return takes.map((take) => {
    width -= take * block;
    return width;
  });
};

describe("what a step takes", () => {
  test("is a sixteenth of the width, and more where what remains is to be a multiple", () => {
    expect(left(1536, 128).slice(0, 4)).toEqual([1408, 1280, 1152, 1024]);
    expect(left(14336, 128).slice(0, 3)).toEqual([13440, 12544, 11648]);
    expect(left(2048, 1).slice(0, 2)).toEqual([1920, 1792]);
    // No id lists more than 4,096 of a layer.
    expect(left(28672, 128).at(-1)).toBe(28672 - 2 * 1792);
    // Below 1,024 nothing is aligned.
    expect(left(512, 128).slice(0, 3)).toEqual([480, 448, 416]);
  });

  test("is whole blocks, whatever the width, and leaves some in every layer", () => {
    for (const width of [2, 12, 64, 100, 255, 256, 300, 1000, 1024, 1100, 4864, 5461, 11008, 18944])
      for (const align of [1, 16, 128]) {
        const { block, takes } = neuronSteps(width, align);
        const widths = left(width, align);
        expect(width % block).toBe(0);
        expect(Math.min(...takes)).toBeGreaterThan(0);
        expect(widths.at(-1)).toBeGreaterThan(0);
        const share = (each: number, index: number) => (widths[index - 1] ?? width) - each;
        for (const taken of widths.map(share)) expect(taken).toBeGreaterThanOrEqual(Math.floor(width / 16));
        if (width >= 1024) for (const each of widths) expect(each % align).toBe(0);
      }
  });
});

describe("blocks of neurons", () => {
  test("hold those whose attributions rank next to each other, the smallest first", () => {
    const values = Float64Array.from(
      { length: 32 },
      (_, neuron) => (neuron % 2 === 0 ? -1 : 1) * (31 - neuron),
    );
    const [layer] = neuronBlocks([values], 16);
    const range = (from: number) => Array.from({ length: 16 }, (_, index) => from + index);
    expect(layer?.map((block) => "neurons" in block && block.neurons)).toEqual([range(16), range(0)]);
    expect(neuronBlocks([values], 1)[0]?.map((block) => "neurons" in block && block.neurons[0])).toEqual(
      [...Array(32).keys()].reverse(),
    );
  });
});
