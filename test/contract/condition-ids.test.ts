/** Ids read back, as both languages read them: test/contract/README.md. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { canonical, conditionId } from "../../src/conditions/ids.ts";
import { directionNamed, parseCondition, type WrittenEdit } from "../../src/conditions/parse.ts";
import {
  MODE_NAMES,
  MODED_KINDS,
  OPERATIONS,
  POSITIONS,
  partsOf,
  SITE_KINDS,
} from "../../src/protocol/catalog.ts";
import type { Intervention } from "../../src/protocol/messages.ts";

interface Typed {
  readonly text: string;
  readonly n_layers: number | null;
}
interface Contract {
  readonly directions: string[];
  readonly read: (Typed & { readonly id: string })[];
  readonly refused: (Typed & { readonly code: string; readonly message: string })[];
}

const file = <T>(name: string): T => JSON.parse(readFileSync(new URL(name, import.meta.url), "utf8")) as T;
const { directions, read, refused } = file<Contract>("condition-ids.json");
const { cases } = file<{ cases: { interventions: Intervention[]; id: string; overlap: boolean }[] }>(
  "conditions.json",
);

function interventions(
  text: string,
  n_layers: number | null,
  known: readonly string[],
  joint?: (id: string) => readonly Intervention[] | undefined,
): Intervention[] {
  const edits = parseCondition(text, { n_layers, ...(joint !== undefined && { joint }) });
  return edits.map((one: WrittenEdit) => {
    if (one.kind !== "direction") return one;
    const { digest, ...rest } = one;
    return { ...rest, sha256: directionNamed(text, digest, known) };
  });
}

const idOf = (edits: readonly Intervention[]): string => conditionId(canonical(edits));

describe("condition-ids.json", () => {
  it.each(read)("$text is $id", ({ text, n_layers, id }) => {
    expect(idOf(interventions(text, n_layers, directions))).toBe(id);
  });

  it.each(refused)("$text is refused", ({ text, n_layers, code, message }) => {
    const parse = () => interventions(text, n_layers, directions);
    expect(parse).toThrow(expect.objectContaining({ code, message }));
  });
});

describe("what is printed", () => {
  const vectors = cases.flatMap(({ interventions: edits }) =>
    edits.flatMap((one) => (one.kind === "direction" ? [one.sha256] : [])),
  );

  it.each(cases.filter(({ overlap }) => !overlap))("$id is read back", ({ interventions: edits, id }) => {
    const joint = (asked: string) => (asked === id ? edits : undefined);
    expect(canonical(interventions(id, null, vectors, joint))).toEqual(canonical(edits));
  });

  it("is read back whatever it is", () => {
    const next = random(20_261_130);
    for (let round = 0; round < 2000; round++) {
      const edits = canonical(anyEdits(next));
      const id = conditionId(edits);
      expect(canonical(interventions(id, null, SHAS, () => edits)), id).toEqual(edits);
    }
  });
});

/** A generator of numbers in [0, 1) with a seed: mulberry32. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const SHAS = Array.from({ length: 4 }, (_, index) => `${index}`.repeat(64));

/** One edit a layer, so that none overlaps, and directions. */
function anyEdits(next: () => number): Intervention[] {
  const below = (limit: number): number => Math.floor(next() * limit);
  const one = <T>(list: readonly T[]): T => list[below(list.length)] as T;
  const some = (limit: number): number[] =>
    [...new Set(Array.from({ length: 1 + below(5) }, () => below(limit)))].sort((a, b) => a - b);
  const sites = some(90).map((layer): Intervention => {
    const kind = one([...MODED_KINDS, "layer" as const]);
    if (kind === "layer") return { kind, layer, mode: "skip" };
    const parts = partsOf(kind);
    const listed = parts === null ? {} : { [parts.field]: some(5000) };
    return { kind, layer, ...listed, mode: one(MODE_NAMES), positions: one(POSITIONS) } as Intervention;
  });
  const directed = SHAS.slice(0, below(3)).map((sha256): Intervention => {
    const op = one(Object.keys(OPERATIONS) as (keyof typeof OPERATIONS)[]);
    const coefficient = one([1, -1, 0.1 + 0.2, 1e-7, 1e6, next() * 10 ** (below(13) - 6)]);
    const layers = next() < 0.5 ? ("all" as const) : some(90);
    return {
      kind: "direction",
      op,
      at: one(OPERATIONS[op]),
      layers,
      coefficient,
      positions: one(POSITIONS),
      sha256,
    };
  });
  return [...sites.slice(0, directed.length > 0 ? below(sites.length + 1) : sites.length), ...directed];
}

it("docs/condition-ids.md names every kind, mode, operation, place and position", () => {
  const page = readFileSync(new URL("../../docs/condition-ids.md", import.meta.url), "utf8");
  const alternatives = (name: string): string[] =>
    (new RegExp(`^${name} += (.*) ;$`, "m").exec(page)?.[1] ?? "")
      .split(" | ")
      .map((one) => one.slice(1, -1));
  const places = new Set<string>(Object.values(OPERATIONS).flat());
  expect(alternatives("kind")).toEqual(SITE_KINDS.filter((kind) => kind !== "direction"));
  expect(alternatives("mode")).toEqual([...MODE_NAMES, "skip"]);
  expect(alternatives("operation")).toEqual(Object.keys(OPERATIONS));
  expect(alternatives("place")).toEqual([...places]);
  expect(alternatives("positions")).toEqual([...POSITIONS]);
});
