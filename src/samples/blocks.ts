/**
 * Token ids → evaluation and calibration blocks. Pure: the same ids, sizes and seed give the same
 * blocks on every machine and in every version (test/unit/samples/blocks.test.ts holds fixed values).
 */
import { createHash } from "node:crypto";
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import { littleEndian } from "./bytes.ts";
import type { Block, DonorRows } from "./sample.ts";

/** Longest text that is used, in tokens. */
export const MAX_TEXT_TOKENS = 4_000_000;
/** Width of the windows of evaluation text that calibration text is searched for. */
const SHARED_RUN_TOKENS = 32;

export interface BlockShape {
  /** Tokens a block, BOS included. */
  readonly seq_len: number;
  /** The token that stands in front of every block; null: none does. */
  readonly bos: number | null;
}

/** How many whole blocks the text holds, and how many tokens its end leaves over. */
export function cutBlocks(ids: Int32Array, shape: BlockShape): { blocks: number; dropped: number } {
  const width = textTokens(shape);
  return { blocks: Math.floor(ids.length / width), dropped: ids.length % width };
}

/** Tokens of the text in one block. */
const textTokens = ({ seq_len, bos }: BlockShape): number => (bos === null ? seq_len : seq_len - 1);

export function blockAt(ids: Int32Array, index: number, shape: BlockShape): Block {
  const width = textTokens(shape);
  const block = new Int32Array(shape.seq_len);
  if (shape.bos !== null) block[0] = shape.bos;
  block.set(ids.subarray(index * width, (index + 1) * width), shape.seq_len - width);
  return { index, ids: block, sha256: sha256(littleEndian(block)) };
}

export interface Sampling {
  /** Blocks to choose from. */
  readonly total: number;
  /** null: all. */
  readonly wanted: number | null;
  readonly seed: number;
  readonly batch_size: number;
  /** Batches at the head of the seed's order that are left out. */
  readonly skip_batches?: number;
}

/**
 * A sample without replacement, in random order: the first blocks of the seed's shuffle. Whole
 * batches, since another batch shape gives other bits; less than one batch where there is no more.
 */
export function sampleBlocks({ total, wanted, seed, batch_size, skip_batches = 0 }: Sampling): number[] {
  const skipped = skip_batches * batch_size;
  const left = Math.max(0, total - skipped);
  const most = Math.min(left, wanted ?? left);
  return shuffled(total, seed).slice(skipped, skipped + wholeBatches(most, batch_size));
}

/** 0 … total − 1 in the seed's order (Fisher and Yates), the first ones first. */
export function shuffled(total: number, seed: number): number[] {
  const order = Array.from({ length: total }, (_, index) => index);
  const draws = randomWords(seed);
  for (let place = 0; place < total - 1; place++) {
    const other = place + below(total - place, draws);
    const [here, there] = [order[place] as number, order[other] as number];
    order[place] = there;
    order[other] = here;
  }
  return order;
}

/** Uniform 32-bit words: sha256 of "sparkablate blocks <seed> <counter>", eight big-endian words each. */
function* randomWords(seed: number): Generator<number, never> {
  for (let counter = 0; ; counter++) {
    const digest = createHash("sha256").update(`sparkablate blocks ${seed} ${counter}`).digest();
    for (let offset = 0; offset < digest.length; offset += 4) yield digest.readUInt32BE(offset);
  }
}

/** A uniform whole number below `bound`: words of the last, incomplete multiple of it are thrown away. */
function below(bound: number, words: Generator<number, never>): number {
  const range = 2 ** 32;
  for (;;) {
    const word = words.next().value;
    if (word < range - (range % bound)) return word % bound;
  }
}

/** A tokenised text, and what messages call it. */
export interface Text {
  readonly name: string;
  /** What a person should know of it, e.g. its line ends. */
  readonly notices?: readonly string[];
  readonly ids: Int32Array;
}

export interface BlockChoice extends BlockShape {
  readonly evaluation: Text;
  /** null: out of the blocks of the evaluation text that evaluation does not use. */
  readonly calibration: Text | null;
  readonly batch_size: number;
  /** null: the whole text. */
  readonly max_batches: number | null;
  /** Batches at the head of the seed's order that another run has used. */
  readonly skip_batches?: number;
  /** 0 where no mean is needed. */
  readonly calibration_batches: number;
  /** Whether every evaluation block needs a donor of its own. */
  readonly resample?: boolean;
  /** Blocks of other texts that are evaluated too: calibration repeats none of them. */
  readonly evaluated?: readonly Block[];
  readonly seed: number;
}

export interface ChosenBlocks {
  /** In the order in which they are measured. */
  readonly evaluation: Block[];
  /** No run of 63 tokens (2 × 32 − 1) stands in both; of shorter blocks, no block. */
  readonly calibration: Block[];
  /** Of `resample`: for each evaluation block another, of the calibration text, that no other one has. */
  readonly donors: DonorRows;
  /** What a person should know: tokens dropped, fewer blocks than asked for. */
  readonly notices: string[];
}

/** @throws SparkablateError text_too_short, with the numbers. */
export function chooseBlocks(choice: BlockChoice): ChosenBlocks {
  const { seed, batch_size, calibration_batches, skip_batches = 0 } = choice;
  const notices: string[] = [];
  const text = usable(choice.evaluation, choice, notices);
  const own = choice.calibration === null || sameIds(choice.calibration.ids, choice.evaluation.ids);
  const calibrationWanted = calibration_batches * batch_size;
  const skipped = skip_batches * batch_size;
  if (skipped >= text.blocks) {
    const message = `${text.name}: the text has ${text.blocks} blocks, and eval.skip_batches leaves out ${skipped}`;
    throw new SparkablateError("text_too_short", message);
  }
  const left = { ...text, blocks: text.blocks - skipped };
  const wanted = choice.max_batches === null ? left.blocks : choice.max_batches * batch_size;

  const resample = choice.resample ?? false;
  const reserved = own ? reserve(left, wanted, Math.max(calibrationWanted, resample ? wanted : 0)) : 0;
  const sampling = { total: text.blocks, seed, batch_size, skip_batches };
  const chosen = sampleBlocks({ ...sampling, wanted: Math.min(wanted, left.blocks - reserved) });
  if (chosen.length < wanted) notices.push(fewer("evaluation", wanted, chosen.length, left));
  const evaluation = chosen.map((index) => blockAt(text.ids, index, choice));
  if (calibrationWanted === 0 && !resample) return { evaluation, calibration: [], donors: {}, notices };

  const source = own || choice.calibration === null ? text : usable(choice.calibration, choice, notices);
  const order = shuffled(source.blocks, seed);
  const calibration =
    calibrationWanted === 0
      ? []
      : disjoint(
          source,
          order.slice(own ? skipped + chosen.length : 0),
          calibrationWanted,
          [...(choice.evaluated ?? []), ...evaluation],
          choice,
          notices,
        );
  if (calibration.length < calibrationWanted) {
    notices.push(fewer("calibration", calibrationWanted, calibration.length, source));
  }
  if (!resample) return { evaluation, calibration, donors: {}, notices };
  // Behind what another run with fewer skipped batches has drawn.
  const unused = order.slice(own ? skipped + chosen.length : skipped);
  const drawn = disjoint(source, unused, evaluation.length, evaluation, choice, notices, "source");
  const paired = wholeBatches(drawn.length, batch_size);
  if (paired < evaluation.length) {
    notices.push(
      `mode resample needs a donor block for every evaluation block: ${source.name} has ${drawn.length} for ${evaluation.length}, so ${paired} are evaluated`,
    );
  }
  return {
    evaluation: evaluation.slice(0, paired),
    calibration,
    donors: { resample: drawn.slice(0, paired) },
    notices,
  };
}

/**
 * Blocks of several texts in turn: as many of each in every batch, so that a mean over blocks is the mean over the texts.
 * Calibration takes its blocks as of the first text alone.
 * @param choice of the first text; its `batch_size` is a multiple of the number of texts.
 * @throws SparkablateError text_too_short; config_invalid for mode resample.
 */
export function chooseInTurn(choice: BlockChoice, others: readonly Text[]): ChosenBlocks {
  if (choice.resample === true)
    throw new SparkablateError(
      "config_invalid",
      "mode resample draws its donors from one text: leave out eval.also",
    );
  const texts = 1 + others.length;
  const each = choice.batch_size / texts;
  const share = { ...choice, batch_size: each, calibration_batches: 0 };
  const further = others.map((evaluation) => chooseBlocks({ ...share, evaluation }));
  const first = chooseBlocks({
    ...share,
    // Of blocks, as many as one text would have.
    calibration_batches: choice.calibration_batches * texts,
    evaluated: further.flatMap(({ evaluation }) => evaluation),
  });
  const columns = [first, ...further].map(({ evaluation }) => evaluation);
  const fewest = Math.min(...columns.map(({ length }) => length));
  const notices = [first, ...further].flatMap((chosen) => chosen.notices);
  const rows = wholeBatches(fewest, each);
  if (columns.some(({ length }) => length > rows))
    notices.push(`${rows} blocks of each text are used: as many as the shortest has`);
  const evaluation = Array.from({ length: rows }, (_, row) =>
    columns.map((column) => column[row] as Block),
  ).flat();
  return { ...first, evaluation, notices };
}

/** Whole batches, since another batch shape gives other bits; less than one where there is no more. */
export const wholeBatches = (most: number, batchSize: number): number =>
  most - (most > batchSize ? most % batchSize : 0);

interface UsableText extends Text {
  readonly blocks: number;
}

/** The text within the cap, known to hold a block. */
function usable(text: Text, shape: BlockShape, notices: string[]): UsableText {
  const { name } = text;
  notices.push(...(text.notices ?? []));
  if (text.ids.length > MAX_TEXT_TOKENS) {
    notices.push(`${name}: the first ${MAX_TEXT_TOKENS} of ${text.ids.length} tokens are used`);
  }
  const ids = text.ids.subarray(0, MAX_TEXT_TOKENS);
  const { blocks, dropped } = cutBlocks(ids, shape);
  if (blocks === 0) {
    const bos = shape.bos === null ? "" : " after its BOS token";
    const need = `a block of eval.seq_len ${shape.seq_len} takes ${textTokens(shape)}${bos}`;
    throw new SparkablateError("text_too_short", `${name}: the text has ${ids.length} tokens, and ${need}`);
  }
  if (dropped > 0)
    notices.push(`${name}: ${blocks} blocks; the last ${dropped} tokens fill no block and are dropped`);
  return { ...text, ids, blocks };
}

/** Blocks that evaluation must leave to calibration; in proportion where the text is too short for both. */
function reserve({ name, blocks }: UsableText, wanted: number, calibrationWanted: number): number {
  if (calibrationWanted === 0 || wanted + calibrationWanted <= blocks) return calibrationWanted;
  if (blocks < 2) {
    const message = `${name}: the text holds one block; evaluation and calibration need one each`;
    throw new SparkablateError("text_too_short", message, {
      help: "Use a longer text, name another one in eval.calibration, or lower eval.seq_len.",
    });
  }
  const share = Math.floor((blocks * calibrationWanted) / (wanted + calibrationWanted));
  return Math.min(blocks - 1, Math.max(1, share));
}

function fewer(what: string, wanted: number, found: number, { name, blocks }: UsableText): string {
  return `${what} uses ${found} of the ${wanted} blocks asked for: ${name} holds ${blocks}`;
}

/** The first `wanted` blocks of `order` that share no run of tokens with the evaluation blocks. */
export function disjoint(
  source: Text,
  order: readonly number[],
  wanted: number,
  evaluation: readonly Pick<Block, "ids">[],
  shape: BlockShape,
  notices: string[],
  what: "calibration" | "source" = "calibration",
): Block[] {
  const offset = shape.seq_len - textTokens(shape);
  const width = Math.min(SHARED_RUN_TOKENS, textTokens(shape));
  const shares = sharing(evaluation, { offset, width, stride: width });

  const found: Block[] = [];
  let left = 0;
  for (const index of order) {
    if (found.length === wanted) break;
    const block = blockAt(source.ids, index, shape);
    if (shares(block)) left++;
    else found.push(block);
  }
  if (left > 0)
    notices.push(`${source.name}: ${left} ${what} blocks repeat evaluation text and are left out`);
  if (found.length > 0) return found;
  const message = `${source.name}: no ${what} block is left that does not repeat evaluation text`;
  throw new SparkablateError("text_too_short", message, {
    help: "Name another text in eval.calibration, or lower eval.max_batches.",
  });
}

/**
 * The blocks of `drawn` that repeat what stands in `before`: a run of 32 tokens, of shorter blocks of half a block, at any
 * place. A page that comes again does so at another place of a block.
 */
export function repeating(drawn: readonly Block[], before: readonly Block[]): Block[] {
  const [first] = drawn;
  if (first === undefined) return [];
  const width = Math.max(1, Math.min(SHARED_RUN_TOKENS, Math.floor(first.ids.length / 2)));
  return drawn.filter(sharing(before, { offset: 0, width, stride: 1 }));
}

/** Which blocks share a window of tokens with some of these, whose windows begin a stride apart. */
function sharing(
  blocks: readonly Pick<Block, "ids">[],
  { offset, width, stride }: { readonly offset: number; readonly width: number; readonly stride: number },
): (block: Pick<Block, "ids">) => boolean {
  const seen = new Set<string>();
  for (const { ids } of blocks) {
    for (let at = offset; at + width <= ids.length; at += stride) seen.add(windowKey(ids, at, width));
  }
  return ({ ids }) => {
    for (let at = offset; at + width <= ids.length; at++)
      if (seen.has(windowKey(ids, at, width))) return true;
    return false;
  };
}

const windowKey = (ids: Int32Array, at: number, width: number): string =>
  Buffer.from(ids.buffer, ids.byteOffset + at * 4, width * 4).toString("latin1");

function sameIds(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((id, position) => id === b[position]);
}
