/** What a run is beside its rows. */
import type { Intervention, LoadedModel, Numerics } from "../protocol/messages.ts";
import type { NumericFloor } from "../statistics/floor.ts";
import type { Correction } from "../statistics/multiplicity.ts";
import type { RacePlan } from "../statistics/racing.ts";

/** What the rows' statistics depend on. */
export interface StatisticsSettings {
  /** bh: Benjamini–Hochberg; by: Benjamini–Yekutieli. */
  readonly correction: Correction;
  /** What rounding alone does to Δ NLL (null conditions, below float32); null where not measured. */
  readonly floor: NumericFloor | null;
  /** `stop:`; absent or null where every condition sees every block. */
  readonly race?: RacePlan | null;
}

/** What is evaluated where it is no text. */
export interface TaskFacts {
  /** Digest of the task file. */
  readonly sha256: string;
  /** How many the file has; a run may evaluate fewer. */
  readonly items: number;
  /** Whether the items have wrong answers. */
  readonly wrong: boolean;
}

/** All that a report says of a run beside its rows. */
export interface RunFacts {
  /** The run directory's name. */
  readonly name: string;
  /** As the config names it. */
  readonly model: string;
  /** The commit that was resolved; null for a local or built-in model. */
  readonly revision: string | null;
  /** Digest over the weight files. */
  readonly weights_sha256: string;
  /** The row of the architecture table that was found on the model, where nobody has reviewed one; absent elsewhere. */
  readonly discovered?: string;
  /** All that changes the bits of a result without changing its meaning. */
  readonly numerics: Numerics;
  /** Evaluation text or task, as a person knows it: a file's name, or a dataset with its split. */
  readonly text: string;
  /** null or absent: a text. */
  readonly task?: TaskFacts | null;
  /** Calibration text or task; null where no mean was needed. */
  readonly calibration: string | null;
  /** Text or task whose rows mode resample takes activations from; absent where no condition has it. */
  readonly resample_source?: string;
  /** File whose rows mode patch takes activations from; absent where no condition has it. */
  readonly patch_source?: string;
  /** Tokens a block; of a task, of its longest item. */
  readonly seq_len: number;
  /** Blocks a batch. */
  readonly batch_size: number;
  /** Whether a BOS token stands before every block. */
  readonly bos: boolean;
  /** Which blocks, in which order. */
  readonly seed: number;
  /** Blocks a condition. */
  readonly planned_blocks: number;
  /** Conditions of the run, without the baseline. */
  readonly planned_conditions: number;
  /** What was swept: layers, heads, kv_groups, mlp, attn, custom. */
  readonly sweep: string;
  /** Edits that all is measured on top of, the baseline too, in canonical order; absent: none. */
  readonly given?: readonly Intervention[];
  /** What the rows' statistics depend on. */
  readonly statistics: StatisticsSettings;
  /** The resolved config, as YAML. */
  readonly config: string;
  /** sparkablate's version. */
  readonly version: string;
  /** ISO 8601. */
  readonly started: string;
  /** ISO 8601; null while conditions are missing. */
  readonly finished: string | null;
}

/** What a stored sum is divided by: predicted tokens a block; the values of a task's items are whole. */
export const divisor = ({ task, seq_len }: Pick<RunFacts, "task" | "seq_len">): number =>
  task == null ? seq_len - 1 : 1;

/** One run, as it is stored. */
export interface RunRecord {
  readonly run_id: string;
  /** sha256 or value of everything that makes it this run (store/fingerprint.ts). */
  readonly identity: Readonly<Record<string, string>>;
  readonly model: Omit<LoadedModel, "model_files">;
  /** What a report says beside its rows; `finished` is null while conditions are missing. */
  readonly facts: RunFacts;
  readonly notices: readonly string[];
}
