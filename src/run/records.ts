/** Blocks and items, as they are stored with a run. */
import { DONOR_MODES } from "../protocol/catalog.ts";
import type { Answer } from "../protocol/messages.ts";
import type { ChosenBlocks } from "../samples/blocks.ts";
import type { Block, ItemBlock } from "../samples/sample.ts";
import type { BlockRecord, StoredItem } from "../store/sqlite.ts";

export function* blockRecords({ evaluation, calibration, sources }: ChosenBlocks): Generator<BlockRecord> {
  for (const [split, blocks] of [
    ["evaluation", evaluation],
    ["calibration", calibration],
    ...DONOR_MODES.map((mode) => [mode, sources[mode] ?? []] as const),
  ] as const) {
    for (const [ordinal, block] of blocks.entries()) {
      const { index, sha256 } = block;
      yield { split, ordinal, position: index, sha256, ...(isItem(block) && { item: storedItem(block) }) };
    }
  }
}

const isItem = (block: Block): block is ItemBlock => "answer" in block;

const storedItem = ({ item, answer }: ItemBlock): StoredItem => ({
  ...item,
  tokens: answer.end - answer.begin,
});

/** null where blocks of a text are evaluated. */
export function answersOf({ evaluation }: ChosenBlocks): Answer[] | null {
  const answers = evaluation.filter(isItem).map(({ answer }) => answer);
  return answers.length === 0 ? null : answers;
}
