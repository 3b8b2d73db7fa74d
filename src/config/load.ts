/**
 * YAML → RunConfig. Everything that can be known to be wrong without a model is said here, all of
 * it at once, before any Python starts.
 */
import { basename, extname } from "node:path";
import { stringify } from "yaml";
import type { z } from "zod";
import { ERROR_CODES } from "../errors.ts";
import { PLACEHOLDER } from "./chunks.ts";
import { type Named, NOTHING_NAMED } from "./condition-text.ts";
import { override } from "./overrides.ts";
import {
  asWritten,
  type FlagName,
  noteWritten,
  type Origins,
  type Path,
  type Problem,
  problem,
  refuse,
} from "./problems.ts";
import { type ConfigInput, type RunConfig, runConfigSchema } from "./schema.ts";
import { readTextFile } from "./text-file.ts";
import { readYaml } from "./yaml.ts";

export { configProblem } from "./problems.ts";
export type { AblationInput, ConfigInput, RunConfig, TargetInput } from "./schema.ts";

/** What of a config does not stand in the file. */
export interface ConfigOptions {
  /** Overrides like `eval.max_batches=2`; of two for one key the later holds. */
  readonly set?: readonly string[];
  /** Where the user stands: what relative paths are relative to. */
  readonly cwd?: string;
  /** Whether --trust-remote-code was given. */
  readonly trustRemoteCode?: boolean;
  /** Whether the texts that it names have to be there; default true. A bake or a comparison may read none. */
  readonly texts?: boolean;
  /** @internal What ids in it may name beside sites: directions and joint conditions; default: nothing. */
  readonly named?: Named;
  /** @internal Keys of the text that were written as flags: messages name those. */
  readonly flags?: ReadonlyMap<string, FlagName>;
}

const TARGETS_A_PIECE = 256;
/** Longer than any config that is meant. */
const MAX_CONFIG_BYTES = 16 << 20;

/**
 * Reads a YAML file into a complete config: every default filled in, every path absolute.
 *
 * @throws SparkablateError input_missing, config_invalid and as `parseConfig`.
 */
export function loadConfig(path: string, options: ConfigOptions = {}): RunConfig {
  const { text } = readTextFile(path, "the config file", MAX_CONFIG_BYTES, options.cwd);
  return parseConfig(text, path, options);
}

/**
 * YAML text into a complete config.
 *
 * @param file what messages call the text.
 * @throws SparkablateError with one line a problem: `file:line: key: what is wrong; what is
 *   allowed`. Its code is config_invalid, or what all problems have in common: input_missing,
 *   model_not_found, other_run.
 */
export function parseConfig(text: string, file: string, options: ConfigOptions = {}): RunConfig {
  const { flags } = options;
  let source = readYaml(text, (line) => (flags === undefined ? `${file}:${line}` : file));
  for (const [key, name] of flags ?? []) source.origins.recordFlag(key, name);
  // After a syntax error there is nothing to put an override on, and echoes would bury the cause.
  if (source.value === undefined) refuse(source.problems);
  for (const assignment of options.set ?? []) source = override(source, assignment);

  const schema = runConfigSchema({
    cwd: options.cwd ?? process.cwd(),
    trustRemoteCode: options.trustRemoteCode ?? false,
    texts: options.texts ?? true,
    named: options.named ?? NOTHING_NAMED,
    outputDir: `results/${basename(file, extname(file))}`,
  });
  const parsed = schema.safeParse(source.value ?? {});
  const issues = parsed.error?.issues.flatMap(unwrap) ?? [];
  refuse([...source.problems, ...issues.flatMap((issue) => problemsOf(issue, source.value, source.origins))]);
  const config = parsed.data as RunConfig;
  noteOrigins(config, source.origins);
  return config;
}

/**
 * A config written in TypeScript: the keys of a YAML file, with their types, and the same checks and defaults.
 *
 * @param config output.dir is results/config where it does not say.
 * @throws SparkablateError as `parseConfig`.
 *
 * @example
 * ```ts
 * const config = defineConfig({
 *   model: { name: "builtin:smollm2-135m" },
 *   eval: { dataset: "shipped:corpora/northanger-abbey.txt", seq_len: 64, max_batches: 8 },
 *   ablation: { sweep: "heads", layers: [0, 1] },
 *   output: { dir: "results/two-layers" },
 * });
 * ```
 */
export const defineConfig = (config: ConfigInput, options: ConfigOptions = {}): RunConfig =>
  parseConfig(JSON.stringify(config, null, 1), "config", options);

/** Notes on every section, and on every entry of the lists, where it was written. */
function noteOrigins(config: RunConfig, origins: Origins): void {
  for (const [name, section] of Object.entries(config)) if (section) noteWritten(section, origins, [name]);
  const { targets, directions, given = [] } = config.ablation;
  for (const [key, entries] of Object.entries({ targets, given }))
    for (const [index, specs] of entries.entries())
      for (const [part, spec] of specs.entries())
        noteWritten(spec, origins, ["ablation", key, index, ...(specs.length > 1 ? [part] : [])]);
  for (const [index, spec] of directions.entries())
    noteWritten(spec, origins, ["ablation", "directions", index]);
}

/** The text of a run directory's config.yaml: nothing left to defaults, and it parses back to `config`. */
export function resolvedYaml(config: RunConfig): string {
  const { ablation } = config;
  const { targets } = ablation;
  if (targets.length <= TARGETS_A_PIECE) return yamlOf(config);
  // The library's tree of thousands of targets would take a hundred times their text.
  const frame = yamlOf({ ...config, ablation: { ...ablation, targets: [PLACEHOLDER] } });
  const pieces = Array.from({ length: Math.ceil(targets.length / TARGETS_A_PIECE) }, (_, index) => {
    const piece = targets.slice(index * TARGETS_A_PIECE, (index + 1) * TARGETS_A_PIECE);
    const [_ablation, _targets, ...items] = yamlOf({ ablation: { targets: piece } }).split("\n");
    return items.join("\n");
  });
  const [before = "", after = ""] = frame.split(new RegExp(`^ *- ${PLACEHOLDER}\n`, "m"));
  return before + pieces.join("") + after;
}

const yamlOf = (value: unknown): string => stringify(value, { lineWidth: 0, aliasDuplicateObjects: false });

/** With what `dtype: auto` is, or was; a dtype that was written stays. */
export function withDtype(config: RunConfig, dtype: string): RunConfig {
  if (config.model.dtype !== "auto") return config;
  const model = { ...config.model, dtype: dtype as RunConfig["model"]["dtype"] };
  return { ...config, model: asWritten(config.model, model) };
}

/**
 * What of a config makes it another run: all but `output` and names and paths, in whose place the
 * store puts digests of the contents.
 */
export function identityConfig(config: RunConfig) {
  const { name: _name, revision: _revision, ...model } = config.model;
  const {
    dataset: _dataset,
    also: _also,
    task: _task,
    calibration: _calibration,
    ...evaluation
  } = config.eval;
  const withoutPath = <T extends object>(spec: T) => {
    const { path: _path, ...rest } = spec as T & { path?: string };
    return rest;
  };
  const { targets, directions, given, from: _from, top: _top, source: _source, ...sweep } = config.ablation;
  return {
    model,
    eval: evaluation,
    ablation: {
      ...sweep,
      targets: targets.map((specs) => specs.map(withoutPath)),
      ...(given !== undefined && { given: given.map((specs) => specs.map(withoutPath)) }),
      directions: directions.map(withoutPath),
    },
    stop: config.stop,
  };
}

type Issue = z.core.$ZodIssue;

/** A union's complaint → those of the one alternative that the value was meant as, where that is clear. */
function unwrap(issue: Issue): Issue[] {
  if (issue.code !== "invalid_union") return [issue];
  const meant = issue.errors.filter(
    (issues) => !issues.some(({ path, code }) => path.length === 0 && code !== "custom"),
  );
  if (meant.length !== 1 || meant[0] === undefined) return [issue];
  return meant[0].flatMap((inner) => unwrap({ ...inner, path: [...issue.path, ...inner.path] }));
}

function problemsOf(issue: Issue, written: unknown, origins: Origins): Problem[] {
  const path = writtenPath(issue.path, written);
  if (issue.code === "unrecognized_keys") {
    const messages = issue.message.split("\n");
    return issue.keys.map((key, index) =>
      problem("config_invalid", origins, [...path, key], messages[index] ?? ""),
    );
  }
  const given = issue.code === "custom" ? issue.params?.code : undefined;
  const code = ERROR_CODES.find((known) => known === given) ?? "config_invalid";
  return [problem(code, origins, path, issue.message)];
}

/** The schema's path → the one that was written: a target's single spec is no list there. */
function writtenPath(path: readonly PropertyKey[], written: unknown): Path {
  const kept: (string | number)[] = [];
  let here = written;
  for (const part of path) {
    if (typeof part === "number" && here !== undefined && !Array.isArray(here)) continue;
    const step = typeof part === "symbol" ? part.toString() : part;
    kept.push(step);
    here = typeof here === "object" && here !== null ? (here as Record<string, unknown>)[step] : undefined;
  }
  return kept;
}
