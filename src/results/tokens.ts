/** Pure: where in the text a condition hurts. Δ NLL of single tokens: the largest, by position, by frequency. */

import { type RatioEstimate, ratioEstimate } from "../statistics/effects.ts";
import type { RunFacts } from "./facts.ts";
import { FEW_BLOCKS } from "./row.ts";

/** One block or item, token by token. */
export interface TokenisedBlock {
  /** Index of the block in the text, of the item in the task. */
  readonly position: number;
  /** Up to the last predicted token. */
  readonly ids: Int32Array;
  /** Position of the first predicted token. */
  readonly first: number;
  /** NLL at each predicted token, nats. */
  readonly baseline: Float32Array;
  readonly edited: Float32Array;
}

/** A condition's kept values. */
export interface TokenRun {
  readonly condition: string;
  readonly facts: RunFacts;
  readonly blocks: readonly TokenisedBlock[];
  /** Token id → the bytes it stands for. */
  readonly texts: ReadonlyMap<number, Uint8Array>;
}

/** One predicted token. */
export interface TokenEffect {
  /** Index of the block in the text, of the item in the task. */
  readonly block: number;
  /** Of the token in its block or item, from 0, a BOS token included. */
  readonly position: number;
  readonly id: number;
  /** How often it occurs in the evaluated text. */
  readonly count: number;
  /** Nats: edited − baseline. */
  readonly delta: number;
  readonly baseline: number;
  readonly edited: number;
  /** Its bytes, those of the tokens before it and of those behind it. */
  readonly bytes: Uint8Array;
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

/** Tokens that have something in common. */
export interface TokenBin extends RatioEstimate {
  /** Both ends are in it: a place among the predicted tokens of a block, from 1, or occurrences in the text. */
  readonly from: number;
  readonly to: number;
  readonly tokens: number;
  /** Blocks that hold any of them. */
  readonly blocks: number;
  /** What they add to the Δ NLL of all tokens: over all bins these sum to it. */
  readonly share: number;
}

export interface TokenReport {
  readonly run: TokenRun;
  /** Predicted tokens. */
  readonly tokens: number;
  /** Mean over them, nats. */
  readonly delta: number;
  /** Share of tokens that the edited model predicts worse, and better. */
  readonly worse: number;
  readonly better: number;
  /** Share of all that is lost (the sum of the Δ above 0) that the hundredth of tokens with the largest Δ loses. */
  readonly concentration: number | null;
  /** The largest Δ, the largest first; equals in the order of the text. */
  readonly top: readonly TokenEffect[];
  readonly by_position: readonly TokenBin[];
  readonly by_frequency: readonly TokenBin[];
}

/** Tokens of context before and behind: they hold more bytes than a line shows. */
const CONTEXT_BEFORE = 24;
const CONTEXT_BEHIND = 8;

/** @param top how many single tokens. */
export function tokenReport(run: TokenRun, top: number): TokenReport {
  const counts = occurrences(run);
  const deltas = Float64Array.from(deltasOf(run));
  const at = (index: number): number => deltas[index] as number;
  const order = Uint32Array.from(deltas.keys()).sort((a, b) => at(b) - at(a));
  const sum = deltas.reduce((total, value) => total + value, 0);
  const lost = deltas.reduce((total, value) => total + Math.max(0, value), 0);
  const worst = order.subarray(0, Math.ceil(deltas.length / 100));
  const share = (holds: (value: number) => boolean): number => deltas.filter(holds).length / deltas.length;
  return {
    run,
    tokens: deltas.length,
    delta: sum / deltas.length,
    worse: share((value) => value > 0),
    better: share((value) => value < 0),
    concentration:
      lost === 0 ? null : worst.reduce((total, index) => total + Math.max(0, at(index)), 0) / lost,
    top: [...order.subarray(0, top)].map((index) => tokenAt(run, counts, index)),
    by_position: bins(run, deltas.length, (_, place) => place),
    by_frequency: bins(run, deltas.length, (id) => counts.get(id) as number),
  };
}

/** How often each token occurs in the evaluated text; a BOS token that the run put there is none of it. */
function occurrences({ blocks, facts }: TokenRun): Map<number, number> {
  const counts = new Map<number, number>();
  for (const { ids } of blocks)
    for (const id of facts.bos ? ids.subarray(1) : ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}

function* deltasOf({ blocks }: TokenRun): Generator<number> {
  for (const { baseline, edited } of blocks)
    for (const [index, value] of edited.entries()) yield value - (baseline[index] as number);
}

/** @param among all predicted tokens, from 0. */
function tokenAt(
  { blocks, texts, facts }: TokenRun,
  counts: ReadonlyMap<number, number>,
  among: number,
): TokenEffect {
  let index = among;
  const block = blocks.find(({ edited }) => {
    if (index < edited.length) return true;
    index -= edited.length;
    return false;
  }) as TokenisedBlock;
  const { ids } = block;
  const [baseline, edited] = [block.baseline[index] as number, block.edited[index] as number];
  const position = block.first + index;
  const id = ids[position] as number;
  const bytes = (from: number, to: number): Uint8Array =>
    Buffer.concat([...ids.subarray(from, to)].map((token) => texts.get(token) ?? new Uint8Array()));
  return {
    block: block.position,
    position,
    id,
    count: counts.get(id) as number,
    delta: edited - baseline,
    baseline,
    edited,
    bytes: bytes(position, position + 1),
    before: bytes(Math.max(facts.bos ? 1 : 0, position - CONTEXT_BEFORE), position),
    after: bytes(position + 1, position + 1 + CONTEXT_BEHIND),
  };
}

/** Of a token: its id and its place among the predicted ones of its block, from 1. */
type TokenValue = (id: number, place: number) => number;

/** Bins that double: 1, 2 to 3, 4 to 7, … */
function bins({ blocks }: TokenRun, tokens: number, value: TokenValue): TokenBin[] {
  const found: { readonly sums: Float64Array; readonly counts: Float64Array }[] = [];
  let highest = 0;
  for (const [at, { ids, first, baseline, edited }] of blocks.entries()) {
    for (const [index, nll] of edited.entries()) {
      const of = value(ids[first + index] as number, index + 1);
      const bin = 31 - Math.clz32(of);
      highest = Math.max(highest, of);
      found[bin] ??= {
        sums: new Float64Array(blocks.length),
        counts: new Float64Array(blocks.length),
      };
      const entry = found[bin];
      entry.sums[at] = (entry.sums[at] as number) + (nll - (baseline[index] as number));
      entry.counts[at] = (entry.counts[at] as number) + 1;
    }
  }
  return found.flatMap(({ sums, counts }, bin) => ({
    ...ratioEstimate(sums, counts, FEW_BLOCKS),
    from: 2 ** bin,
    to: Math.min(2 ** (bin + 1) - 1, highest),
    tokens: counts.reduce((sum, count) => sum + count, 0),
    blocks: counts.filter((count) => count > 0).length,
    share: sums.reduce((sum, value) => sum + value, 0) / tokens,
  }));
}
