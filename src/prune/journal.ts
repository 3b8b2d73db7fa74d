/** What a search is, kept in its directory: another one is refused, and held-out blocks are used for one target. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { requireDirectory } from "../files.ts";
import { differences } from "../store/fingerprint.ts";
import { writeAtomically } from "../store/projections.ts";
import type { FullSettings, PruneTarget } from "./settings.ts";

/** Its file in the directory. */
export const JOURNAL = "search.json";

interface Journal {
  readonly settings: Readonly<Record<string, unknown>>;
  readonly target: PruneTarget;
  /** How many sets of held-out blocks were used up before. */
  readonly holdout: number;
}

/**
 * Begins a search, or goes on with the one that is there.
 * @param fresh for another target: takes held-out blocks that were not seen.
 * @param config names the model and the texts with their paths.
 * @throws SparkablateError other_run naming what differs; usage for another target without fresh blocks; not_ours.
 */
export function openSearch(
  { target, out, model: _model, texts: _texts, ...plain }: FullSettings,
  { model, eval: { dataset, also = [] } }: RunConfig,
  fresh: boolean,
): Journal {
  const settings = { model, texts: [dataset, ...also], ...plain };
  requireDirectory(out, 0o777, "Name another directory with --out.");
  const path = join(out, JOURNAL);
  const before = existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Journal) : null;
  const isSameTarget = JSON.stringify(before?.target) === JSON.stringify(target);
  if (before !== null) {
    requireSame(out, before.settings, settings);
    if (!isSameTarget && !fresh && existsSync(join(out, "held-out")))
      throw new SparkablateError(
        "usage",
        `${out} has shown held-out numbers of this search for another target: a step that is chosen after seeing them is not tested any more`,
        { help: "Pass --fresh-holdout, which takes held-out blocks that nobody has seen." },
      );
  }
  const holdout = before === null ? 0 : before.holdout + (isSameTarget ? 0 : 1);
  const journal: Journal = { settings, target, holdout };
  writeAtomically(path, [`${JSON.stringify(journal, null, 1)}\n`]);
  return journal;
}

function requireSame(out: string, there: Journal["settings"], now: Journal["settings"]): void {
  const differing = differences(asText(there), asText(now));
  if (differing.length === 0) return;
  const message = [`${out} belongs to another search; these differ:`, ...differing];
  throw new SparkablateError("other_run", message, { help: "Name another directory with --out." });
}

const asText = (settings: Journal["settings"]): Record<string, string> =>
  Object.fromEntries(Object.entries(settings).map(([key, value]) => [key, JSON.stringify(value)]));
