/** How numbers and names look for people. Machine formats (CSV, JSON) never pass through here. */
import type { Row } from "../results/row.ts";
import { median } from "../statistics/effects.ts";

const MINUS = "\u2212";

/** Decimals that show two digits of the sweep's typical standard error: more would be noise. */
export function decimalsFor(rows: { values(): IteratorObject<Pick<Row, "se">> }): number {
  const errors: number[] = [];
  for (const { se } of rows.values()) if (se !== null && se !== 0) errors.push(se);
  const typical = median(errors);
  if (typical === null) return 4;
  return Math.min(7, Math.max(2, 1 + Math.ceil(-Math.log10(typical))));
}

export function fixed(value: number, decimals: number): string {
  return value.toFixed(decimals).replace("-", MINUS);
}

export function signed(value: number, decimals: number): string {
  const text = fixed(value, decimals);
  return text.startsWith(MINUS) ? text : `+${text}`;
}

export function interval(ci95: Row["ci95"], decimals: number): string {
  return ci95 === null ? "–" : `[${signed(ci95[0], decimals)}, ${signed(ci95[1], decimals)}]`;
}

/** The value's text, or a dash where there is none. */
export function orDash(value: number | null, format: (value: number) => string): string {
  return value === null ? "–" : format(value);
}

/** Of tied ones the mean, which may end with a half. */
export const rank = (value: number): string => fixed(value, Number.isInteger(value) ? 0 : 1);

/** p and q: three decimals, or one digit and a power of ten below 0.001. */
export function probability(value: number | null): string {
  if (value === null) return "–";
  if (value === 0) return "<1e-300";
  return value < 0.001 ? value.toExponential(0) : value.toFixed(3);
}

/** Perplexities and their ratios: about four significant digits, never a long integer. */
export function ratio(value: number | null): string {
  if (value === null) return "–";
  if (value >= 10_000) return value.toExponential(2).replace("e+", "e");
  return value.toFixed(value < 10 ? 3 : value < 100 ? 2 : value < 1000 ? 1 : 0);
}

export function integer(value: number): string {
  return value.toLocaleString("en-US");
}

/** 0.95 → "95 %". */
export function percent(share: number): string {
  return `${Number((share * 100).toPrecision(6))} %`;
}

/** "1 condition", "2 conditions". */
export function counted(count: number, noun: string): string {
  return `${integer(count)} ${noun}${count === 1 ? "" : "s"}`;
}
