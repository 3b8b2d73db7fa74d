import { expect, it } from "vitest";
import { numericFloor } from "../../../src/statistics/floor.ts";

it("is the rms and the mean of the null conditions' effects a token", () => {
  const baseline = Float64Array.of(10, 20, 30);
  const shifted = (shift: number): Float64Array => baseline.map((sum) => sum + shift);
  const floor = numericFloor(baseline, [shifted(3), shifted(-1)], 10);
  expect(floor?.mean).toBeCloseTo(0.1, 12);
  expect(floor?.rms).toBeCloseTo(Math.sqrt((0.09 + 0.01) / 2), 12);
  expect(numericFloor(baseline, [], 10)).toBeNull();
});
