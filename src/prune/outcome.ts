/** What a search's best sets cost on held-out blocks, which of them the target allows, and that one's checkpoint. */
import { join } from "node:path";
import { type ConfigInput, defineConfig, type RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import type { ModelSize } from "../protocol/messages.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions, Foreseen } from "../run/bake.ts";
import { readBlockRun } from "../store/block-run.ts";
import { cardOf, levelOf } from "./facts.ts";
import { type Disagreement, disagreement, lastAllowed, type TextEffect, upperBound } from "./held-out.ts";
import type { Machine } from "./machine.ts";
import type { PathStep, TextLevel, Unedited } from "./path.ts";
import type { Best } from "./search.ts";
import type { FullSettings, PruneTarget } from "./settings.ts";
import type { UnitRow } from "./units.ts";

/** Batches for means, of the selection's size. */
export const CALIBRATION_BATCHES = 8;

/** What comes of the sets that a search has found. */
export interface Outcome {
  /** null where no step was found. */
  readonly unedited: Unedited | null;
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
  readonly machine: Pick<Machine, "bake" | "foresee">;
}

/**
 * @param best of each size, size 1 first.
 * @param holdout how many sets of held-out blocks were used up before.
 */
export async function outcomeOf(bench: Bench, best: readonly Best[], holdout: number): Promise<Outcome> {
  const { target } = bench.settings;
  const { unedited, steps } = await heldOut(bench, best, holdout);
  const chosen = chosenOf(target, steps);
  return {
    unedited,
    steps,
    chosen: chosen?.size ?? null,
    reached: chosen !== null && reaches(target, chosen),
    disagreement: disagreement(steps),
    checkpoint: chosen === null || unedited === null ? null : await baked(bench, unedited, chosen),
  };
}

function chosenOf(target: PruneTarget, steps: readonly PathStep[]): PathStep | null {
  // A number of units that no stock checkpoint has: its bake says so.
  if ("remove" in target) return steps.at(-1) ?? null;
  const writable = steps.filter(({ refusal }) => refusal === null);
  if ("target_params" in target)
    return writable.find((step) => reaches(target, step)) ?? writable.at(-1) ?? null;
  // Whatever comes before the first failure is tested.
  const last = lastAllowed(steps, target.max_delta_nll);
  return writable.findLast(({ size }) => last !== null && size <= last.size) ?? null;
}

function reaches(target: PruneTarget, { size, weights }: PathStep): boolean {
  if ("target_params" in target) return weights !== null && weights.parameters <= target.target_params;
  return "max_delta_nll" in target || size === target.remove;
}

async function heldOut(
  bench: Bench,
  best: readonly Best[],
  holdout: number,
): Promise<Pick<Outcome, "unedited" | "steps">> {
  if (best.length === 0) return { unedited: null, steps: [] };
  const { settings, row, ids } = bench;
  const named = best.map(({ set }) => set.map((unit) => ids[unit] as string));
  const texts: MeasuredText[] = [];
  for (const [index, text] of settings.texts.entries())
    texts.push(await measured(bench, named, text, { holdout, index }));
  const steps: PathStep[] = [];
  let before: ModelSize | null = null;
  for (const [index, { set, value }] of best.entries()) {
    const removed = named[index] as string[];
    const { size, refusal } = await foreseen(bench, removed);
    before ??= size?.before ?? null;
    steps.push({
      size: row.everywhere ? index + 1 : set.length,
      removed,
      selection_delta_nll: value,
      nested: index === 0 || (best[index - 1] as Best).set.every((unit) => set.includes(unit)),
      refusal,
      weights: size?.after ?? null,
      held_out: texts.map(({ effects }) => effects[index] as TextEffect),
      nll: texts.map(({ levels }) => levels[index + 1] as TextLevel),
    });
  }
  const nll = texts.map(({ levels }) => levels[0] as TextLevel);
  return { unedited: { weights: before, nll }, steps };
}

/** Of one text, step by step. */
interface MeasuredText {
  readonly effects: readonly TextEffect[];
  /** The unedited model's first. */
  readonly levels: readonly TextLevel[];
}

async function measured(
  { settings, on, finished }: Bench,
  named: readonly (readonly string[])[],
  text: string,
  { holdout, index }: { readonly holdout: number; readonly index: number },
): Promise<MeasuredText> {
  const { model, texts, seq_len, seed, batch_size, blocks, held_out_blocks, calibration, out } = settings;
  notify(on, [`held-out blocks of ${text}`]);
  const dir = join(out, "held-out", `${holdout + 1}-${index + 1}`);
  const rows = await finished(
    defineConfig({
      model,
      ablation: { sweep: "custom", targets: named.map((ids) => ids.join(" + ")) },
      eval: {
        seq_len,
        seed,
        dataset: text,
        batch_size,
        // The same blocks as in the search.
        ...(calibration !== null && {
          calibration,
          calibration_batches: CALIBRATION_BATCHES * texts.length,
        }),
        max_batches: held_out_blocks / batch_size,
        skip_batches: (blocks + holdout * held_out_blocks) / batch_size,
      },
      output: { dir },
    }),
  );
  const run = readBlockRun(dir);
  const effects = rows.slice(1).map(({ delta_nll, se, ci95, blocks: n }) => {
    const upper95 = delta_nll === null ? null : upperBound(delta_nll, se, n);
    return { text, blocks: n, delta_nll, se, ci95, upper95 };
  });
  return { effects, levels: rows.map(({ condition }) => levelOf(run, condition, text)) };
}

async function baked(bench: Bench, before: Unedited, step: PathStep): Promise<Baked> {
  const { on, signal, machine } = bench;
  notify(on, [`baking without ${step.removed.join(", ")}`]);
  const [config, options] = bakeOf(bench, step.removed);
  return await machine.bake(config, {
    ...options,
    timed: true,
    card: cardOf(bench, before, step),
    on,
    signal,
  });
}

/** How large the checkpoint without these units would be, or why no stock one can be without them. */
export async function foreseen(
  bench: Bench,
  removed: readonly string[],
): Promise<{ readonly size: Foreseen | null; readonly refusal: string | null }> {
  try {
    return { size: await bench.machine.foresee(...bakeOf(bench, removed)), refusal: null };
  } catch (error) {
    if (!(error instanceof SparkablateError) || error.code !== "bake_refused") throw error;
    return { size: null, refusal: error.message };
  }
}

/** The checkpoint without these units. */
function bakeOf({ settings, row, config }: Bench, removed: readonly string[]): [RunConfig, BakeOptions] {
  const ablation = { sweep: "custom" as const, targets: [removed.join(" + ")] };
  return [config({ ablation }), { out: join(settings.out, "model"), ...row.bake, force: true }];
}
