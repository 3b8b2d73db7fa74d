/** What a search is asked for. */
import { resolve } from "node:path";
import type { ConfigInput } from "../config/load.ts";
import { SparkablateError } from "../errors.ts";
import type { Unit } from "./units.ts";

/** Whether a step is enough, or one too many. */
export type PruneTarget =
  | {
      /** Nats a token that removing may cost on every text, at 95 % confidence on held-out blocks. */
      readonly max_delta_nll: number;
    }
  | {
      /** Units to remove; key/value groups and neurons out of every layer. */
      readonly remove: number;
    }
  | {
      /** Parameters that the checkpoint may have. */
      readonly target_params: number;
    };

/** What stands in the place of what is removed. */
export type Compensate = "none" | "mean";

/** A model, texts, and how far to go. */
export interface PruneSettings {
  /** As in a config. */
  readonly model: ConfigInput["model"];
  /** As `eval.dataset`, at least one: selection and held-out blocks are drawn from each. */
  readonly texts: readonly string[];
  /** What is removed one of. Default: layers. */
  readonly unit?: Unit | undefined;
  /** How far to go. */
  readonly target: PruneTarget;
  /** Neurons that remain are a multiple of it, where a layer has 1,024 or more; default 128. */
  readonly align?: number | undefined;
  /**
   * What stands in the place of what is removed: nothing, or its mean write over `calibration`, a constant in a bias (of a
   * layer, in that of an MLP below). Default: none.
   */
  readonly compensate?: Compensate | undefined;
  /** Text for the means, none of the others; needed with `compensate: "mean"` and of no use without it. */
  readonly calibration?: string | null | undefined;
  /** Tokens a block; default 256. */
  readonly seq_len?: number | undefined;
  /** Blocks of each text in a batch; default 4. */
  readonly batch_size?: number | undefined;
  /** Selection blocks of each text; default 64. */
  readonly blocks?: number | undefined;
  /** Held-out blocks of each text; default 64. */
  readonly held_out_blocks?: number | undefined;
  /** Which blocks; default 0. */
  readonly seed?: number | undefined;
  /** Absolute path of the search's directory. */
  readonly out: string;
}

/** Nothing is left to defaults. */
export type FullSettings = { readonly [K in keyof PruneSettings]-?: Exclude<PruneSettings[K], undefined> };

/** @throws SparkablateError usage for numbers that no search has. */
export function complete(settings: PruneSettings): FullSettings {
  const {
    unit = "layers",
    align = 128,
    seq_len = 256,
    batch_size = 4,
    blocks = 64,
    held_out_blocks = 64,
    seed = 0,
    compensate = "none",
    calibration = null,
  } = settings;
  const { texts, target } = settings;
  if (texts.length === 0)
    throw new SparkablateError("usage", "a text is missing: the search needs one at least");
  for (const [name, value] of Object.entries({ batch_size, blocks, held_out_blocks, align }))
    if (!Number.isInteger(value) || value < 1)
      throw new SparkablateError("usage", `${name} is ${value}; allowed: whole numbers from 1`);
  for (const [name, value] of Object.entries({ blocks, held_out_blocks }))
    if (value % batch_size !== 0)
      throw new SparkablateError(
        "usage",
        `${name} is ${value}, no multiple of ${batch_size}: batches are whole`,
      );
  requireMeans({ texts, compensate, calibration });
  const [[name, value]] = Object.entries(target) as [[string, number]];
  const fits =
    name === "max_delta_nll" ? Number.isFinite(value) && value >= 0 : Number.isInteger(value) && value >= 1;
  if (!fits)
    throw new SparkablateError(
      "usage",
      `${name} is ${value}; allowed: ${name === "max_delta_nll" ? "nats a token from 0" : "whole numbers from 1"}`,
    );
  return {
    ...settings,
    ...{ unit, align, seq_len, batch_size, blocks, held_out_blocks, seed, compensate, calibration },
  };
}

/** Means are of blocks that neither choose nor test, the same ones in every run of the search. */
function requireMeans({
  texts,
  compensate,
  calibration,
}: Pick<FullSettings, "texts" | "compensate" | "calibration">): void {
  if (compensate === "mean" && calibration === null)
    throw new SparkablateError(
      "usage",
      "compensate: mean needs a text for its means: name one with --calibration",
    );
  if (compensate !== "mean" && calibration !== null)
    throw new SparkablateError("usage", "calibration is of no use without compensate: mean");
  if (calibration !== null && texts.some((text) => resolve(text) === resolve(calibration)))
    throw new SparkablateError(
      "usage",
      `${calibration} chooses and tests: means come from a text of their own; name another one in calibration`,
    );
}
