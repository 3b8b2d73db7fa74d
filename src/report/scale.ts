/** Axes of Δ NLL: linear, or linear near 0 and logarithmic beyond where a few effects dwarf the rest. */
import { median } from "../statistics/effects.ts";

export interface Tick {
  /** Position on the axis, in the axis' own units. */
  readonly at: number;
  readonly label: string;
}

export interface Scale {
  /** symlog: position = asinh(value / linear_within), about linear within ± linear_within. */
  readonly kind: "linear" | "symlog";
  readonly linear_within: number | null;
  /** Ends of the axis, as positions. */
  readonly min: number;
  readonly max: number;
  readonly ticks: readonly Tick[];
}

/** Largest effect over median effect from which a linear axis would hide most of a sweep. */
const SYMLOG_FROM = 25;

/**
 * @param effects what decides linear or symlog: the values themselves
 * @param ends what must lie on the axis: values and interval ends
 */
export function scaleFor(effects: readonly number[], ends: readonly number[], symmetric: boolean): Scale {
  const sizes = effects.map(Math.abs).filter((size) => size > 0);
  const typical = median(sizes) ?? 1;
  const largest = sizes.reduce((a, b) => Math.max(a, b), 0);
  const reach = [0, ...ends];
  let low = reach.reduce((a, b) => Math.min(a, b));
  let high = reach.reduce((a, b) => Math.max(a, b));
  if (low === high) high = low + typical;
  if (symmetric) {
    high = Math.max(-low, high);
    low = -high;
  }
  return largest > SYMLOG_FROM * typical ? symlog(low, high, typical) : linear(low, high, symmetric);
}

/** A linear axis from the least value to the largest, which need not show 0. @param unit what its labels count. */
export function scaleBetween(low: number, high: number, unit = 1): Scale {
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  const [min, max] = [(low - room) / unit, (high + room) / unit];
  const step = niceStep((max - min) / 6);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const first = Math.ceil(min / step - 1e-9);
  const count = Math.floor(max / step + 1e-9) - first + 1;
  const ticks = Array.from({ length: count }, (_, index) => {
    const value = (first + index) * step;
    return { at: value * unit, label: numberLabel(value, decimals) };
  });
  return { kind: "linear", linear_within: null, min: min * unit, max: max * unit, ticks };
}

/** Where a value lies on the axis. */
export function place(scale: Scale, value: number): number {
  return scale.linear_within === null ? value : Math.asinh(value / scale.linear_within);
}

function linear(low: number, high: number, symmetric: boolean): Scale {
  const step = niceStep((high - low) / 8);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step).map((at) => ({
    at,
    label: numberLabel(at, decimals),
  }));
  const margin = symmetric ? 0 : (high - low) * 0.04;
  return {
    kind: "linear",
    linear_within: null,
    min: low < 0 ? low - margin : 0,
    max: high > 0 ? high + margin : 0,
    ticks,
  };
}

function symlog(low: number, high: number, typical: number): Scale {
  const within = 10 ** Math.floor(Math.log10(typical));
  const scale = { kind: "symlog", linear_within: within, min: 0, max: 0, ticks: [] } as const;
  const size = Math.max(-low, high);
  const decades = Math.log10(size / within);
  const powers = [];
  for (let power = within; power <= size * 1.001; power *= 10) {
    powers.push(power);
    if (decades < 3 && 3 * power <= size) powers.push(3 * power);
  }
  const values = [...powers.map((power) => -power).reverse(), 0, ...powers];
  const ticks = values
    .filter((value) => value >= low * 1.001 && value <= high * 1.001)
    .map((value) => ({ at: place(scale, value), label: numberLabel(value, decimalsOf(Math.abs(value))) }));
  const margin = 0.04 * (place(scale, high) - place(scale, low));
  return {
    ...scale,
    min: low < 0 ? place(scale, low) - margin : 0,
    max: high > 0 ? place(scale, high) + margin : 0,
    ticks,
  };
}

/** 1, 2 or 5 times a power of ten, at least `atLeast`. */
function niceStep(atLeast: number): number {
  const power = 10 ** Math.floor(Math.log10(atLeast));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= atLeast * 0.999) ?? 10);
}

function decimalsOf(size: number): number {
  return size === 0 ? 0 : Math.max(0, -Math.floor(Math.log10(size) + 1e-9));
}

function numberLabel(value: number, decimals: number): string {
  if (Math.abs(value) < 1e-12) return "0";
  const text = decimals > 5 ? value.toExponential(0) : value.toFixed(decimals);
  return text.replace(/^-/, "\u2212").replace("e-", "e\u2212");
}
