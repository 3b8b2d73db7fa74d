/** Numbers of layers and parts as people list them: `3,7`, `0..5`, `-1` for the last. */
import { LIMITS } from "../protocol/catalog.ts";
import type { Scanner } from "./scanner.ts";

/** Layers of the model; null: not known, and asked for where it matters; "later": negative numbers may stay. */
export type LayerCount = number | null | "later";

const NUMBER = /-?\d+/y;
const RANGE = /[ \t]*\.\.[ \t]*/y;
const COMMA = /[ \t]*,[ \t]*/y;

/** Layers that are listed here, in the order of writing; undefined: there is no number here. */
export function layerNumbers(scanner: Scanner, count: LayerCount): number[] | undefined {
  return list(scanner, (first, last) => span(scanner, first, last, count));
}

/** Numbers of the parts that are listed here, e.g. heads. @param one what a part is called. */
export function partNumbers(scanner: Scanner, one: string): number[] | undefined {
  return list(scanner, (first, last) => {
    if (first < 0 || last < 0)
      scanner.fail(`${one} ${first < 0 ? first : last} is negative; only layers are counted from the end`);
    return expand(scanner, first, last);
  });
}

function list(scanner: Scanner, span: (first: number, last: number) => number[]): number[] | undefined {
  const found: number[] = [];
  do {
    const first = number(scanner);
    if (first === undefined) return undefined;
    const last = scanner.take(RANGE) === undefined ? first : number(scanner);
    if (last === undefined) scanner.fail(`a number must follow ${first}..`);
    for (const value of span(first, last)) {
      if (found.includes(value)) scanner.fail(`${value} is listed twice: keep one`);
      found.push(value);
    }
    if (found.length > LIMITS.listed) scanner.fail(`more than ${LIMITS.listed} are listed`);
  } while (scanner.take(COMMA) !== undefined);
  return found;
}

function number(scanner: Scanner): number | undefined {
  const written = scanner.take(NUMBER);
  if (written === undefined) return undefined;
  const value = Number(written);
  if (Math.abs(value) <= LIMITS.index) return value === 0 ? 0 : value;
  return scanner.fail(`${written} is too large; allowed: up to ${LIMITS.index}`);
}

function span(scanner: Scanner, first: number, last: number, count: LayerCount): number[] {
  if (typeof count === "number")
    return expand(scanner, fromFront(scanner, first, count), fromFront(scanner, last, count));
  if (count === null && (first < 0 || last < 0))
    scanner.fail(
      `layer ${first < 0 ? first : last} is counted from the end, and the number of layers is not known here`,
    );
  if (first < 0 !== last < 0)
    scanner.fail(
      `the range ${first}..${last} has one end counted from the last layer, and the number of layers is not known here: count both ends from the same side`,
    );
  return expand(scanner, first, last);
}

function fromFront(scanner: Scanner, layer: number, count: number): number {
  if (layer >= -count) return layer < 0 ? layer + count : layer;
  return scanner.fail(`layer ${layer} does not exist; the model has ${count} layers`);
}

function expand(scanner: Scanner, first: number, last: number): number[] {
  if (last < first) scanner.fail(`the range ${first}..${last} runs backwards`);
  if (last - first >= LIMITS.listed) scanner.fail(`more than ${LIMITS.listed} are listed`);
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
