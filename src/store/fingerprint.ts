/** What makes two runs the same run: config without names and paths, digests of what they name, numerics. */
import { sha256 } from "../digest.ts";
import { SparkablateError } from "../errors.ts";
import type { LoadedModel } from "../protocol/messages.ts";

/** Part → its value as text, or its sha256; compared part by part, so that a difference can be named. */
export type Identity = Readonly<Record<string, string>>;

export interface IdentityInput {
  /** The config without output, names and paths. */
  readonly config: unknown;
  readonly loaded: LoadedModel;
  /** Of the task file; null: a text is evaluated. */
  readonly task: string | null;
  /** sha256 of every evaluation block or item, in order; of every calibration block or item. */
  readonly evaluation: readonly string[];
  readonly calibration: readonly string[];
  /** Mode with a donor → sha256 of the donors' rows, in the order of the evaluation's. */
  readonly donors: readonly (readonly [mode: string, rows: readonly string[]])[];
  /** Ids of the edits that all is measured on top of, in canonical order. */
  readonly given: readonly string[];
  /** Ids of the conditions, in order. */
  readonly conditions: readonly string[];
  /** sha256 and recorded norm of every direction vector, in order of use. */
  readonly directions: readonly string[];
}

/** The parts that the config is. */
export const configParts = (config: unknown): Record<string, string> => flatten(config, "config");

export function identityOf(input: IdentityInput): Identity {
  const { loaded } = input;
  return {
    ...configParts(input.config),
    weights: loaded.weights_sha256,
    tokenizer: loaded.tokenizer_sha256,
    ...(input.task === null ? {} : { task: input.task }),
    "evaluation blocks": sha256(input.evaluation.join("\n")),
    "calibration blocks": sha256(input.calibration.join("\n")),
    ...Object.fromEntries(input.donors.map(([mode, rows]) => [`${mode} sources`, sha256(rows.join("\n"))])),
    ...(input.given.length > 0 && { given: input.given.join(" + ") }),
    conditions: sha256(input.conditions.join("\n")),
    directions: sha256(input.directions.join("\n")),
    ...flatten(loaded.numerics, "numerics"),
  };
}

/** A line for every part that differs. */
export function differences(stored: Identity, now: Identity): string[] {
  return [...new Set([...Object.keys(stored), ...Object.keys(now)])]
    .sort()
    .filter((part) => stored[part] !== now[part])
    .map((part) => `  ${part}: ${short(stored[part])} there, ${short(now[part])} now`);
}

/** Throws `other_run`, listing every part that differs, unless both are the same. */
export function requireSameRun(directory: string, stored: Identity, now: Identity): void {
  const shown = differences(stored, now);
  if (shown.length === 0) return;
  throw new SparkablateError("other_run", [`${directory} belongs to another run; these differ:`, ...shown]);
}

const short = (value: string | undefined): string => {
  if (value === undefined) return "absent";
  return /^[0-9a-f]{64}$/.test(value) ? value.slice(0, 12) : value;
};

function flatten(value: unknown, prefix: string): Record<string, string> {
  if (value === null || typeof value !== "object" || Array.isArray(value))
    return { [prefix]: JSON.stringify(value) };
  return Object.assign(
    {},
    ...Object.entries(value).map(([key, inner]) => flatten(inner, `${prefix}.${key}`)),
  );
}
