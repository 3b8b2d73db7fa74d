/**
 * Ids read back, and what people may type besides: ranges, lists, layers counted from the end. docs/condition-ids.md
 * has the grammar; worker/sparkablate/condition_ids.py is the same in Python, message for message.
 */
import {
  LAYER_MODES,
  LIMITS,
  MODE_NAMES,
  OPERATIONS,
  POSITIONS,
  type Positions,
  partsOf,
  SITE_KINDS,
  SITES,
} from "../protocol/catalog.ts";
import type { Intervention } from "../protocol/messages.ts";
import { BASELINE_ID } from "./ids.ts";
import { type LayerCount, layerNumbers, partNumbers } from "./numbers.ts";
import { Scanner } from "./scanner.ts";

type Direction = Extract<Intervention, { kind: "direction" }>;
export type SiteEdit = Exclude<Intervention, Direction>;

/** A direction that the id names by the first digits of its vector's sha256. */
export type NamedDirection = Omit<Direction, "sha256"> & { readonly digest: string };
/** Of a site, its layer may be negative where the number of layers is to be known later. */
export type WrittenEdit = SiteEdit | NamedDirection;

export interface Reading {
  readonly n_layers: LayerCount;
  /** The edits of an id that was too long to be printed; undefined: not held here. */
  readonly joint?: (id: string) => readonly Intervention[] | undefined;
}

const EXAMPLES = "L14.head[3,7].zero, L5.mlp.mean, L26.layer.skip or dir[1a2b3c4d].project_out";
const KINDS = SITE_KINDS.filter((kind) => SITES[kind].edit !== "direction") as SiteEdit["kind"][];
const OPERATION_NAMES = Object.keys(OPERATIONS) as Direction["op"][];
const DETAILS = ["at", "layers", "coefficient"] as const;
const JOINT = /^joint\[\d+ interventions, [0-9a-f]{16}\]$/;

/**
 * The edits of a condition in the order of writing; none for the baseline.
 * @throws SparkablateError config_invalid, conditions_overlap where one part is edited twice; the text stands in front.
 */
export function parseCondition(text: string, reading: Reading = { n_layers: null }): WrittenEdit[] {
  const scanner: Scanner = new Scanner(text.trim());
  if (scanner.rest === "") scanner.fail(`a condition is missing; write one like ${EXAMPLES}`);
  if (scanner.rest === BASELINE_ID) return [];
  if (/^null\[\d+\]$/.test(scanner.rest)) scanner.fail("is a control that measures rounding, not an edit");
  if (JOINT.test(scanner.rest)) return held(scanner, reading);
  const edits: WrittenEdit[] = [];
  do {
    scanner.space();
    for (const one of edit(scanner, reading)) {
      edits.push(one);
      if (edits.length > LIMITS.listed) scanner.fail(`more than ${LIMITS.listed} edits are listed`);
    }
    scanner.space();
  } while (scanner.take(/\+/y) !== undefined);
  if (scanner.rest !== "") scanner.fail(`"${scanner.rest}" is left over; edits are joined by +`);
  refuseTwice(scanner, edits);
  return edits;
}

/** Numbers of layers as a flag or a key lists them: `0..5,-1`. */
export function parseLayers(text: string, n_layers: LayerCount): number[] {
  const scanner: Scanner = new Scanner(text.trim());
  const found = layerNumbers(scanner, n_layers);
  if (found === undefined || scanner.rest !== "")
    scanner.fail("is no list of layers; write one like 3, 0..5 or 0..5,-1");
  return found;
}

/** The one direction whose digest begins so. @param known sha256 of those that are given. */
export function directionNamed(text: string, digest: string, known: readonly string[]): string {
  const scanner: Scanner = new Scanner(text);
  const [found, ...others] = new Set(known.filter((sha256) => sha256.startsWith(digest)));
  if (found === undefined) scanner.fail(`dir[${digest}] is none of the directions that are given here`);
  if (others.length > 0)
    scanner.fail(`dir[${digest}] is the beginning of ${others.length + 1} directions: give more digits`);
  return found;
}

function held(scanner: Scanner, { joint }: Reading): WrittenEdit[] {
  const found = joint?.(scanner.rest);
  if (found === undefined)
    scanner.fail("stands for an id that was too long to be printed: give the run that holds it");
  return found.map((one) => {
    if (one.kind !== "direction") return one;
    const { sha256: digest, ...rest } = one;
    return { ...rest, digest };
  });
}

function edit(scanner: Scanner, reading: Reading): WrittenEdit[] {
  if (scanner.take(/dir\[/y) !== undefined) return [direction(scanner, reading.n_layers)];
  const from = scanner.place;
  if (scanner.take(/L(?=-?\d)/y) === undefined) {
    const here = scanner.word() || scanner.rest;
    scanner.fail(
      here === "" ? "an edit must follow the +" : `"${here}" is no edit; write one like ${EXAMPLES}`,
    );
  }
  const layers = layerNumbers(scanner, reading.n_layers);
  if (layers === undefined) scanner.fail("a layer's number must follow the comma");
  if (scanner.take(/\./y) === undefined)
    scanner.fail(`a dot and the site must follow ${scanner.since(from)}, like ${scanner.since(from)}.attn`);
  const kind = scanner.name(KINDS);
  if (kind === undefined) scanner.unknown("site", KINDS);
  const listed = parts(scanner, kind, from);
  const mode = modeOf(scanner, kind, from);
  const positions = positionsOf(scanner, kind);
  return layers.map(
    (layer) =>
      ({ kind, layer, ...listed, mode, ...(SITES[kind].edit !== "skip" && { positions }) }) as SiteEdit,
  );
}

function parts(scanner: Scanner, kind: SiteEdit["kind"], from: number): Record<string, number[]> {
  const named = partsOf(kind);
  const site = scanner.since(from);
  const opened = scanner.take(/\[[ \t]*/y) !== undefined;
  if (named === null && opened) scanner.fail(`${kind} is edited whole: leave out what stands in brackets`);
  if (named === null) return {};
  if (!opened) scanner.fail(`the ${named.field} must follow ${site} in brackets, like ${site}[0]`);
  const found = partNumbers(scanner, named.one);
  if (found === undefined || scanner.take(/[ \t]*\]/y) === undefined)
    scanner.fail(`the brackets behind ${site} hold numbers of ${named.field}, like ${site}[0,2..4]`);
  return { [named.field]: found.toSorted((a, b) => a - b) };
}

function modeOf(scanner: Scanner, kind: SiteEdit["kind"], from: number): string {
  const skips = SITES[kind].edit === "skip";
  const site = scanner.since(from);
  if (scanner.take(/\./y) === undefined)
    scanner.fail(`a dot and the mode must follow ${site}, like ${site}.${skips ? "skip" : MODE_NAMES[0]}`);
  // As in a config, zero is another word for skip.
  const mode = scanner.name(skips ? [...LAYER_MODES, "zero"] : MODE_NAMES);
  if (mode === undefined) scanner.unknown(`mode of ${kind}`, skips ? LAYER_MODES : MODE_NAMES);
  return skips && mode === "zero" ? "skip" : mode;
}

function positionsOf(scanner: Scanner, kind: Intervention["kind"]): Positions {
  if (scanner.take(/@/y) === undefined) return "all";
  const positions = scanner.name(POSITIONS);
  if (positions === undefined) scanner.unknown("choice of positions", POSITIONS);
  if (positions !== "all" && SITES[kind].edit === "skip")
    scanner.fail(`a layer is skipped at all positions: leave out @${positions}`);
  return positions;
}

/** Behind `dir[`. */
function direction(scanner: Scanner, n_layers: LayerCount): NamedDirection {
  const digest = scanner.take(/[0-9a-f]{1,64}(?=\])/y);
  if (digest === undefined)
    scanner.fail("dir[…] holds the first digits of the direction's sha256, like dir[1a2b3c4d]");
  scanner.take(/\]/y);
  if (scanner.take(/\./y) === undefined)
    scanner.fail(
      `a dot and the operation must follow dir[${digest}], like dir[${digest}].${OPERATION_NAMES[0]}`,
    );
  const op = scanner.name(OPERATION_NAMES);
  if (op === undefined) scanner.unknown("operation on a direction", OPERATION_NAMES);
  const details = detailsOf(scanner, op, n_layers);
  return { kind: "direction", op, ...details, positions: positionsOf(scanner, "direction"), digest };
}

function detailsOf(
  scanner: Scanner,
  op: Direction["op"],
  n_layers: LayerCount,
): Pick<Direction, "at" | "layers" | "coefficient"> {
  const found: { at: Direction["at"]; layers: Direction["layers"]; coefficient: number } = {
    at: OPERATIONS[op][0],
    layers: "all",
    coefficient: 1,
  };
  if (scanner.take(/\([ \t]*/y) === undefined) return found;
  const seen: string[] = [];
  do {
    const name = scanner.name(DETAILS);
    if (name === undefined || scanner.take(/[ \t]*=[ \t]*/y) === undefined)
      scanner.fail(
        `"${scanner.rest}" begins no detail of a direction; allowed: ${DETAILS.map((one) => `${one}=…`).join(", ")}`,
      );
    if (seen.includes(name)) scanner.fail(`${name} is given twice: keep one`);
    seen.push(name);
    if (name === "at") found.at = placeOf(scanner, op);
    if (name === "layers") found.layers = actsIn(scanner, n_layers);
    if (name === "coefficient") found.coefficient = coefficientOf(scanner);
  } while (scanner.take(/[ \t]*,[ \t]*/y) !== undefined);
  if (scanner.take(/[ \t]*\)/y) === undefined) scanner.fail("the parenthesis is not closed");
  return found;
}

function placeOf(scanner: Scanner, op: Direction["op"]): Direction["at"] {
  const places: readonly Direction["at"][] = OPERATIONS[op];
  const place = scanner.name(places);
  if (place === undefined) scanner.unknown(`place of ${op}`, places);
  return place;
}

function actsIn(scanner: Scanner, n_layers: LayerCount): Direction["layers"] {
  if (scanner.name(["all"])) return "all";
  const opened = scanner.take(/\[[ \t]*/y) !== undefined;
  const layers = opened ? layerNumbers(scanner, n_layers) : undefined;
  if (layers === undefined || scanner.take(/[ \t]*\]/y) === undefined)
    scanner.fail("layers= takes all, or numbers in brackets, like layers=[0,2..4]");
  return layers.toSorted((a, b) => a - b);
}

function coefficientOf(scanner: Scanner): number {
  const written = scanner.take(/[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?/iy);
  const value = Number(written ?? Number.NaN);
  if (!Number.isFinite(value)) scanner.fail("coefficient= takes a number, like coefficient=0.5");
  return value;
}

/** Layers that are counted from both ends may still meet: what knows the model says so. */
function refuseTwice(scanner: Scanner, edits: readonly WrittenEdit[]): void {
  const seen = new Set<string>();
  for (const one of edits) {
    if (one.kind === "direction") continue;
    const named = partsOf(one.kind);
    const listed =
      named === null ? [null] : ((one as unknown as Record<string, number[]>)[named.field] ?? []);
    for (const part of listed) {
      const what = `L${one.layer}.${one.kind}${part === null ? "" : `[${part}]`}`;
      if (seen.has(what)) scanner.fail(`${what} is edited twice`, "conditions_overlap");
      seen.add(what);
    }
  }
}
