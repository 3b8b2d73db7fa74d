/**
 * Which neurons are measured together, and how many a step takes. Single neurons are too many to measure: blocks of
 * 16 whose attributions rank next to each other are formed once, and the block is what is measured.
 */
import { existsSync, readFileSync } from "node:fs";
import { LIMITS } from "../protocol/catalog.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";
import { writeAtomically } from "../store/projections.ts";
import { type Offer, requireOneWidth } from "./units.ts";

/** Neurons of a block, of MLPs that are wide enough for blocks. */
const BLOCK = 16;
/** Below this width every neuron is a block of its own. */
const NARROW = 256;
/** From this width on what remains is a multiple of `align`. */
const WIDE = 1024;
/** Share of the width that a step takes. */
const SHARE = 1 / 16;

/** How many times what it loses a layer has measured: attribution says which, since all would take hours. */
const OFFERS = 2;

/** How the neurons of equally wide MLPs are removed. */
export interface NeuronSteps {
  /** Neurons of a block. */
  readonly block: number;
  /** Blocks that each step takes out of every layer. */
  readonly takes: readonly number[];
}

/**
 * The blocks of a model's neurons, formed once and kept.
 * @param path where they are kept.
 * @param attributions of every neuron, [neurons] a layer.
 * @throws SparkablateError site_unsupported for a model that has not one width.
 */
export async function neuronOffer(
  layers: ModelMap["layers"],
  { align, mode }: { readonly align: number; readonly mode: "zero" | "mean" },
  path: string,
  attributions: () => Promise<readonly Float64Array[]>,
): Promise<Offer> {
  const { block, takes } = neuronSteps(requireOneWidth(layers), align);
  const rest = { takes, offers: OFFERS, each: block };
  if (existsSync(path)) return { units: JSON.parse(readFileSync(path, "utf8")) as Intervention[][], ...rest };
  const units = neuronBlocks(await attributions(), block, mode);
  writeAtomically(path, [JSON.stringify(units)]);
  return { units, ...rest };
}

/**
 * @param width neurons of every layer.
 * @param align what remains is a multiple of it, where the width is at least 1,024.
 */
export function neuronSteps(width: number, align: number): NeuronSteps {
  const multiple = width < WIDE ? 1 : align;
  // Blocks that fill the width and every width that may remain.
  const block = width < NARROW ? 1 : gcd(gcd(width, BLOCK), multiple === 1 ? BLOCK : multiple);
  const takes: number[] = [];
  for (let left = width; ; ) {
    const most = Math.floor((left - width * SHARE) / multiple) * multiple;
    const take = Math.max(1, Math.ceil((left - most) / block));
    left -= take * block;
    if (left < block || most < multiple || width - left > LIMITS.listed) return { block, takes };
    takes.push(take);
  }
}

/**
 * @param attributions one vector a layer, one number a neuron: the first-order effect of its zero.
 * @returns of each layer the blocks, the one with the smallest |attribution| first.
 */
export function neuronBlocks(
  attributions: readonly Float64Array[],
  block: number,
  mode: "zero" | "mean" = "zero",
): Intervention[][] {
  return attributions.map((values, layer) => {
    const ranked = [...values.keys()].sort((a, b) => magnitude(values, a) - magnitude(values, b) || a - b);
    return Array.from({ length: Math.floor(ranked.length / block) }, (_, at) => ({
      kind: "neuron",
      layer,
      neurons: ranked.slice(at * block, (at + 1) * block).sort((a, b) => a - b),
      mode,
      positions: "all",
    }));
  });
}

const magnitude = (values: Float64Array, at: number): number => Math.abs(values[at] as number);

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}
