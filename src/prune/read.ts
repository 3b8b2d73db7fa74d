/** A search's directory, read back: what was found, and how it was measured. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SparkablateError } from "../errors.ts";
import type { RunFacts } from "../results/facts.ts";
import { readPacked } from "../store/run-directory.ts";
import { JOURNAL } from "./journal.ts";
import type { Pruned } from "./prune.ts";
import type { FullSettings } from "./settings.ts";

const PATH = "path.json";

/** What a page tells of a search. */
export interface FinishedSearch {
  readonly found: Pruned;
  readonly settings: Pick<
    FullSettings,
    "seq_len" | "blocks" | "held_out_blocks" | "batch_size" | "seed" | "calibration"
  >;
  /** Of its first run: the model, and how it computed. */
  readonly facts: RunFacts;
}

/** Whether a directory is a search's, and not a run's. */
export const isSearch = (directory: string): boolean =>
  existsSync(join(directory, JOURNAL)) && !existsSync(join(directory, "results.sqlite"));

/** @throws SparkablateError input_missing where the search has not ended; store_corrupt for a damaged file. */
export function readSearch(directory: string): FinishedSearch {
  if (!existsSync(join(directory, PATH)))
    throw new SparkablateError("input_missing", `${directory} holds a search that has not ended`, {
      help: "Run the same 'sparkablate prune' command again: it goes on where it stopped.",
    });
  const { settings } = json(directory, JOURNAL) as { settings: FinishedSearch["settings"] };
  const found = json(directory, PATH) as Pruned;
  return { found, settings, facts: readPacked(join(directory, "steps", "001")).facts };
}

function json(directory: string, file: string): unknown {
  const path = join(directory, file);
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new SparkablateError("store_corrupt", `${path} is damaged: it is no JSON`, {
      cause,
      help: `Delete ${PATH} and run the same 'sparkablate prune' command again; restore ${JOURNAL} from a copy.`,
    });
  }
}
