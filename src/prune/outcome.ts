/** What a search's best sets cost on held-out blocks, which of them the target allows, and that one's checkpoint. */
import { join } from "node:path";
import { type ConfigInput, defineConfig, type RunConfig } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import type { ModelSize } from "../protocol/messages.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions, Foreseen } from "../run/bake.ts";
import { readBlockRun } from "../store/block-run.ts";
import { RunStore } from "../store/sqlite.ts";
import { cardOf, levelOf } from "./facts.ts";
import { type Disagreement, disagreement, lastAllowed, type TextEffect, textEffect } from "./held-out.ts";
import type { Machine } from "./machine.ts";
import type { Repeats } from "./overlap.ts";
import type { PathStep, TextLevel, Unedited } from "./path.ts";
import type { Best, UnitSet } from "./search.ts";
import type { FullSettings, PruneTarget } from "./settings.ts";
import { rowsOver } from "./some-blocks.ts";
import type { UnitRow } from "./units.ts";

/** Batches for means, of the selection's size. */
export const CALIBRATION_BATCHES = 8;

/** What comes of the sets that a search has found. */
export interface PruneOutcome {
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

/** What says of a set what its checkpoint would be. */
export interface Ground {
  readonly settings: FullSettings;
  readonly row: UnitRow;
  readonly on: OnEvent;
  /** Of a run on the selection blocks. */
  readonly config: (asked: Omit<ConfigInput, "model" | "eval">) => RunConfig;
  readonly machine: Machine;
}

/** What the search lends: its settings, and how it measures. */
export interface Bench extends Ground {
  /** Ids of what removes a set. */
  readonly ids: (set: UnitSet) => string[];
  /** Of a set as a person counts it. */
  readonly size: (set: UnitSet) => number;
  /** Of each text: held-out blocks that repeat what chose. */
  readonly repeats: readonly Repeats[];
  readonly signal: AbortSignal | undefined;
  /** Rows of a run to its end, the baseline first. */
  readonly finished: (config: RunConfig) => Promise<readonly Row[]>;
}

/**
 * @param best of each size, size 1 first.
 * @param holdout how many sets of held-out blocks were used up before.
 */
export async function outcomeOf(bench: Bench, best: readonly Best[], holdout: number): Promise<PruneOutcome> {
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
  return "max_delta_nll" in target || size >= target.remove;
}

async function heldOut(
  bench: Bench,
  best: readonly Best[],
  holdout: number,
): Promise<Pick<PruneOutcome, "unedited" | "steps">> {
  if (best.length === 0) return { unedited: null, steps: [] };
  const { settings } = bench;
  const named = best.map(({ set }) => bench.ids(set));
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
      size: bench.size(set),
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
  { settings, repeats, on, finished }: Bench,
  named: readonly (readonly string[])[],
  text: string,
  { holdout, index }: { readonly holdout: number; readonly index: number },
): Promise<MeasuredText> {
  notify(on, [`held-out blocks of ${text}`]);
  const targets = named.map((ids) => ids.join(" + "));
  const config = ofText(settings, index, holdout, { sweep: "custom", targets });
  const measured = await finished(config);
  const { dir } = config.output;
  const { sha256: repeated, all } = repeats[index] as Repeats;
  const isNew = ({ sha256 }: { readonly sha256: string }) => all || !repeated.has(sha256);
  const rows =
    all || repeated.size === 0 ? measured : RunStore.reading(dir, (store) => rowsOver(store, isNew));
  const run = readBlockRun(dir);
  const kept = run.evaluation.map((sha256) => isNew({ sha256 }));
  const left_out = kept.filter((is) => !is).length;
  return {
    effects: rows.slice(1).map((row) => textEffect(text, row, { repeats: all, left_out })),
    levels: rows.map(({ condition }) => levelOf(run, condition, text, kept)),
  };
}

/** A run on one text's held-out blocks. */
export function ofText(
  { model, texts, seq_len, seed, batch_size, blocks, held_out_blocks, calibration, out }: FullSettings,
  index: number,
  holdout: number,
  ablation: ConfigInput["ablation"],
): RunConfig {
  return defineConfig({
    model,
    ablation,
    eval: {
      seq_len,
      seed,
      dataset: texts[index] as string,
      batch_size,
      // The same blocks as in the search.
      ...(calibration !== null && {
        calibration,
        calibration_batches: CALIBRATION_BATCHES * texts.length,
      }),
      max_batches: held_out_blocks / batch_size,
      skip_batches: (blocks + holdout * held_out_blocks) / batch_size,
    },
    output: { dir: join(out, "held-out", `${holdout + 1}-${index + 1}`) },
  });
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
  bench: Ground,
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
function bakeOf({ settings, row, config }: Ground, removed: readonly string[]): [RunConfig, BakeOptions] {
  const ablation = { sweep: "custom" as const, targets: [removed.join(" + ")] };
  return [config({ ablation }), { out: join(settings.out, "model"), ...row.bake, force: true }];
}
