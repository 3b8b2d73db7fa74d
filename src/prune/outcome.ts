/** What a search's best sets cost on held-out blocks, which of them the target allows, and that one's checkpoint. */
import { join } from "node:path";
import { type ConfigInput, defineConfig, type RunConfig } from "../config/load.ts";
import { notify, type OnEvent } from "../events.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions } from "../run/bake.ts";
import {
  type Disagreement,
  disagreement,
  lastAllowed,
  type Step,
  type TextEffect,
  upperBound,
} from "./held-out.ts";
import type { Best, UnitSet } from "./search.ts";
import type { FullSettings } from "./settings.ts";
import type { UnitRow } from "./units.ts";

/** The best set found of one size, and what it costs. */
export interface PathStep extends Step {
  /** Ids of the removed units. */
  readonly removed: readonly string[];
  /** On the selection blocks, which chose it: too low, and no result. */
  readonly selection_delta_nll: number;
  /** Whether it holds the set of the size before. */
  readonly nested: boolean;
}

/** What comes of the sets that a search has found. */
export interface Outcome {
  /** One a size, size 1 first. */
  readonly steps: readonly PathStep[];
  /** Size of the step that is baked; null: none reaches the target. */
  readonly chosen: number | null;
  /** Whether the target is reached. */
  readonly reached: boolean;
  /** From which step on texts cost differently; null: from none. */
  readonly disagreement: Disagreement | null;
  /** What was written, in `model/` of the search's directory; null: nothing. */
  readonly checkpoint: Baked | null;
}

/** What the search lends: its settings, and how it measures. */
export interface Bench {
  readonly settings: FullSettings;
  readonly row: UnitRow;
  /** Id of each unit, by its number. */
  readonly ids: readonly string[];
  readonly on: OnEvent;
  readonly signal: AbortSignal | undefined;
  /** Of a run on the selection blocks. */
  readonly config: (asked: Omit<ConfigInput, "model" | "eval">) => RunConfig;
  /** Rows of a run to its end, the baseline first. */
  readonly finished: (config: RunConfig) => Promise<readonly Row[]>;
  readonly bake: (config: RunConfig, options: BakeOptions) => Promise<Baked>;
}

/**
 * @param best of each size, size 1 first.
 * @param holdout how many sets of held-out blocks were used up before.
 */
export async function outcomeOf(bench: Bench, best: readonly Best[], holdout: number): Promise<Outcome> {
  const { target } = bench.settings;
  const steps = await heldOut(bench, best, holdout);
  const chosen = "remove" in target ? (steps.at(-1) ?? null) : lastAllowed(steps, target.max_delta_nll);
  return {
    steps,
    chosen: chosen?.size ?? null,
    reached: chosen !== null && ("max_delta_nll" in target || chosen.size === target.remove),
    disagreement: disagreement(steps),
    checkpoint: chosen === null ? null : await baked(bench, chosen),
  };
}

async function heldOut(bench: Bench, best: readonly Best[], holdout: number): Promise<PathStep[]> {
  const { settings, row, ids, on } = bench;
  const { model, texts, seq_len, seed, batch_size, blocks, held_out_blocks, out } = settings;
  if (best.length === 0) return [];
  const effects: TextEffect[][] = best.map(() => []);
  const named = (set: UnitSet): string[] => set.map((unit) => ids[unit] as string);
  const targets = best.map(({ set }) => named(set).join(" + "));
  for (const [index, dataset] of texts.entries()) {
    notify(on, [`held-out blocks of ${dataset}`]);
    const config = defineConfig({
      model,
      ablation: { sweep: "custom", targets },
      eval: {
        seq_len,
        seed,
        dataset,
        batch_size,
        max_batches: held_out_blocks / batch_size,
        skip_batches: (blocks + holdout * held_out_blocks) / batch_size,
      },
      output: { dir: join(out, "held-out", `${holdout + 1}-${index + 1}`) },
    });
    const rows = await bench.finished(config);
    for (const [size, { delta_nll, se, ci95, blocks: n }] of rows.slice(1).entries()) {
      const upper95 = delta_nll === null ? null : upperBound(delta_nll, se, n);
      effects[size]?.push({ text: dataset, blocks: n, delta_nll, se, ci95, upper95 });
    }
  }
  return best.map(({ set, value }, index) => ({
    size: row.everywhere ? index + 1 : set.length,
    removed: named(set),
    selection_delta_nll: value,
    nested: index === 0 || (best[index - 1] as Best).set.every((unit) => set.includes(unit)),
    held_out: effects[index] as TextEffect[],
  }));
}

async function baked({ settings, row, on, signal, ...bench }: Bench, { removed }: PathStep): Promise<Baked> {
  notify(on, [`baking without ${removed.join(", ")}`]);
  const ablation = { sweep: "custom" as const, targets: [removed.join(" + ")] };
  return await bench.bake(bench.config({ ablation }), {
    out: join(settings.out, "model"),
    ...row.bake,
    force: true,
    on,
    signal,
  });
}
