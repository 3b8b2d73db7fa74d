/** Held-out blocks have to be text that chose nothing: a page that comes again would be tested on itself. */
import { SparkablateError } from "../errors.ts";
import { repeating } from "../samples/blocks.ts";
import type { Block } from "../samples/sample.ts";
import type { PruneTarget } from "./settings.ts";

/** What a text gives to a search. */
export interface Shares {
  /** As it was given. */
  readonly text: string;
  /** Blocks that choose. */
  readonly selection: readonly Block[];
  /** Blocks that test. */
  readonly heldOut: readonly Block[];
}

/** Of one text: sha256 of the held-out blocks that repeat what chose, and what a person should know of them. */
export interface Repeats {
  readonly sha256: ReadonlySet<string>;
  /** Whether no held-out block is left that is new. */
  readonly all: boolean;
  readonly notice: string | null;
}

/**
 * @returns one for each text.
 * @throws SparkablateError usage for a text that is given twice; text_too_short where a target is to be tested on a text
 *   whose held-out blocks all repeat what chose.
 */
export function requireFresh(shares: readonly Shares[], target: PruneTarget): Repeats[] {
  requireDifferent(shares);
  const chose = shares.flatMap(({ selection }) => selection);
  return shares.map(({ text, heldOut }) => {
    const found = repeating(heldOut, chose);
    const all = found.length === heldOut.length;
    if (all && "max_delta_nll" in target)
      throw new SparkablateError(
        "text_too_short",
        `${text}: every held-out block repeats text that chooses the units, so that nothing could be tested on it`,
        { help: "Name a text that does not repeat itself, or say with --remove how many to take out." },
      );
    const of = `${found.length} of ${heldOut.length} held-out blocks of ${text} repeat text that chose the units`;
    const notice = all
      ? `${of}: what a step costs there is no independent measurement`
      : `${of} and are left out`;
    return {
      sha256: new Set(found.map(({ sha256 }) => sha256)),
      all,
      notice: found.length === 0 ? null : notice,
    };
  });
}

/** Of one seed and size equal texts give equal blocks. */
function requireDifferent(shares: readonly Shares[]): void {
  const seen = new Map<string, string>();
  for (const { text, selection } of shares) {
    const blocks = selection.map(({ sha256 }) => sha256).join();
    const same = seen.get(blocks);
    if (same !== undefined)
      throw new SparkablateError("usage", `${same} and ${text} hold the same text, which would weigh twice`, {
        help: "Name each text once.",
      });
    seen.set(blocks, text);
  }
}
