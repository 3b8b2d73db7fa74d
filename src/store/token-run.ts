/** What a run directory keeps of single tokens, as a reader sees it. */
import { SparkablateError } from "../errors.ts";
import type { TokenRun } from "../results/tokens.ts";
import { didYouMean } from "../suggest.ts";
import { requireBegun } from "./run-directory.ts";
import { RunStore } from "./sqlite.ts";

/** Relative difference of two ways to add up the same float32 values in float64. */
const ROUNDING = 1e-9;

/**
 * The kept values of a condition and the baseline; null where some of what the run measured of both is not kept.
 * @throws SparkablateError usage for a condition that the run does not have, or measured on no block, store_corrupt
 *   where the values do not add up to the run's sums.
 */
export function readTokenRun(path: string, condition: string): TokenRun | null {
  return RunStore.reading(path, (store) => tokenRun(store, path, condition));
}

/** Of every condition whose values are all kept, in the run's order. */
export function readTokenRuns(path: string): TokenRun[] {
  return RunStore.reading(path, (store) => {
    const kept = new Set(store.tokens((tables) => tables.conditions()));
    const ids = [...store.conditions()].flatMap(({ id }, ordinal) =>
      ordinal > 0 && kept.has(ordinal) ? [id] : [],
    );
    return ids.flatMap((id) => tokenRun(store, path, id) ?? []);
  });
}

function tokenRun(store: RunStore, path: string, condition: string): TokenRun | null {
  const { facts } = requireBegun(store, path);
  const ordinal = ordinalOf(store, path, condition);
  const [baseline, edited] = [store.nllSums(0), store.nllSums(ordinal)];
  const measured = [...edited.keys()].filter((block) => baseline.has(block));
  if (measured.length === 0) {
    const failure = store.failures().get(ordinal);
    const why = failure === undefined ? "is not measured yet" : `failed: ${failure.message}`;
    throw new SparkablateError("usage", `--tokens: ${condition} ${why}`);
  }
  const positions = store.blocks("evaluation").map(({ position }) => position);
  return store.tokens((tables) => {
    const [ids, unedited, changed] = [tables.blocks(), tables.nll(0), tables.nll(ordinal)];
    const texts = tables.texts();
    const blocks: TokenRun["blocks"][number][] = [];
    for (const block of measured) {
      const [tokens, before, after] = [ids.get(block), unedited.get(block), changed.get(block)];
      if (tokens === undefined || before === undefined || after === undefined) return null;
      if (!tokens.ids.every((id) => texts.has(id))) return null;
      // Of an item the stored value is the mean over its answer.
      const items = facts.task == null ? 1 : before.length;
      requireSum(path, before, (baseline.get(block) as number) * items);
      requireSum(path, after, (edited.get(block) as number) * items);
      blocks.push({ ...tokens, position: positions[block] as number, baseline: before, edited: after });
    }
    return { condition, facts, blocks, texts };
  });
}

function ordinalOf(store: RunStore, path: string, condition: string): number {
  const ids = [...store.conditions()].map(({ id }) => id);
  const ordinal = ids.indexOf(condition);
  if (ordinal > 0) return ordinal;
  const why =
    ordinal === 0
      ? "the baseline is what a condition is compared with"
      : `${path} has no condition ${condition}`;
  throw new SparkablateError("usage", `--tokens: ${why}${didYouMean(condition, ids.slice(1))}`, {
    help: `'sparkablate report ${path}' lists the conditions.`,
  });
}

function requireSum(path: string, nll: Float32Array, stored: number): void {
  const sum = nll.reduce((total, value) => total + value, 0);
  if (Math.abs(sum - stored) <= ROUNDING * Math.max(1, Math.abs(stored))) return;
  throw new SparkablateError(
    "store_corrupt",
    `${path}: kept values a token add up to ${sum}, not to ${stored}`,
  );
}
