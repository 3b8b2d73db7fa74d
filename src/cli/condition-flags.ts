/** `--condition`: ids, or targets as a config has them; and what ids may name: `--direction` files and `--from` runs. */
import { resolve } from "node:path";
import { type Command, Option } from "commander";
import { canonical, conditionId } from "../conditions/ids.ts";
import { atoms } from "../conditions/parts.ts";
import { type Named, NOTHING_NAMED, specsOf } from "../config/condition-text.ts";
import type { FlagName } from "../config/problems.ts";
import { readYaml } from "../config/yaml.ts";
import { readDirectionFiles } from "../directions/file.ts";
import { SparkablateError } from "../errors.ts";
import type { Intervention } from "../protocol/messages.ts";
import { groundOf } from "../report/given.ts";
import { cut } from "../report/table.ts";
import { directionsOfRun } from "../run/earlier-run.ts";
import { readRun } from "../store/run-directory.ts";
import { collect } from "./common.ts";

/** Characters of a written target that a message repeats. */
const LONGEST_SHOWN = 80;

export interface ConditionFlags {
  readonly condition: string[];
  readonly each?: true;
  readonly direction: string[];
  readonly from: string[];
}

export function withConditions(command: Command, words: string): Command {
  return command
    .option("--condition <id>", words, collect, [])
    .option(
      "--from <directory>",
      "a run whose directions and joint[…] conditions --condition may name; may be repeated",
      collect,
      [],
    );
}

export const eachOption = (): Option =>
  new Option("--each", "every layer and every head that --condition lists is a condition of its own");

/** Entries of a list of the config, how messages name them, and whether all are ids. */
interface Entries {
  readonly targets: unknown[];
  readonly flags: Map<string, FlagName>;
  readonly ids: boolean;
}

/** Entries of `targets`. @param first how many entries stand before them. */
export function conditionTargets(
  { condition, each, direction, from }: ConditionFlags,
  first: number,
): Entries {
  return entriesOf("--condition", condition, ["targets", first], namedBy(direction, from), each === true);
}

/** Entries of `given`. */
export function givenEntries(
  given: readonly string[],
  { direction, from }: Pick<ConditionFlags, "direction" | "from">,
): Entries {
  return entriesOf("--given", given, ["given", 0], namedBy(direction, from), false);
}

function entriesOf(
  flag: string,
  all: readonly string[],
  [key, first]: readonly [string, number],
  named: () => Named,
  each: boolean,
): Entries {
  const flags = new Map<string, FlagName>();
  const targets: unknown[] = [];
  let ids = true;
  for (const written of all) {
    const shown = `${flag} ${cut(written, LONGEST_SHOWN)}`;
    const value = written.trim() === "" ? written : yamlOf(written, shown);
    const isText = typeof value === "string";
    ids &&= isText;
    const entries = isText ? idEntries(flag, value, named, each) : [value];
    if (!isText && each) throw new SparkablateError("usage", `--each is for ids, not for ${shown}`);
    for (const entry of entries) {
      flags.set(`ablation.${key}[${first + targets.length}]`, { flag: shown, below: isText ? shown : null });
      targets.push(entry);
    }
  }
  return { targets, flags, ids };
}

function yamlOf(written: string, shown: string): unknown {
  const { value, problems } = readYaml(written, () => shown);
  if (problems.length > 0)
    throw new SparkablateError("usage", [...new Set(problems.map(({ line }) => line))]);
  return value;
}

/** An id as a config has it: as text, where the text alone says all of it. */
function idEntries(flag: string, text: string, named: () => Named, each: boolean): unknown[] {
  const refers = /(dir|joint)\[/.test(text);
  const specs = ofFlag(flag, () => specsOf(text, refers ? named() : NOTHING_NAMED));
  if (specs.length === 0)
    throw new SparkablateError(
      "usage",
      `${flag} baseline edits nothing; the baseline is always there besides`,
    );
  if (each) return specs.flatMap((spec) => atoms(spec as unknown as Intervention));
  return refers ? [specs] : [text];
}

/** What is wrong with an id, said of the flag. */
function ofFlag<T>(flag: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof SparkablateError) || error.code === "input_missing") throw error;
    const code = error.code === "config_invalid" ? "usage" : error.code;
    throw new SparkablateError(code, `${flag} ${error.message}`, { cause: error });
  }
}

/**
 * What rows of `--from` runs were measured on top of, as entries of `given`: who names a row means what was measured.
 * @throws SparkablateError usage where the conditions stand on different edits, or a run with given edits lacks them.
 */
export function givenOfRows({ condition, direction, from }: ConditionFlags): unknown[] {
  const runs = from
    .map((directory) => ({ directory, ...readRun(directory) }))
    .filter(({ facts }) => facts.given !== undefined);
  if (runs.length === 0 || condition.length === 0) return [];
  const named = namedBy(direction, from);
  const grounds = condition.map((written) => {
    const id = canonicalText(written, named);
    return runs.find(({ rows }) =>
      rows.some((row) => row.condition === id || row.condition === written.trim()),
    );
  });
  const [first] = grounds;
  const texts = new Set(grounds.map((run) => (run === undefined ? null : groundOf(run.facts))));
  if (first === undefined || texts.size > 1) {
    const [{ directory, facts }] = runs as [(typeof runs)[number]];
    throw new SparkablateError(
      "usage",
      `--from ${directory} was measured on top of ${conditionId(facts.given ?? [])}, but not every --condition is a row of it`,
      {
        help: "Name rows of that run alone, or leave out --from and write its given edits into --condition.",
      },
    );
  }
  return (first.facts.given ?? []).map((one) => {
    if (one.kind !== "direction") return one;
    const { sha256, ...rest } = one;
    return { ...rest, path: named().directions.get(sha256) };
  });
}

/** The id as a row has it; of a direction, as it is written. */
function canonicalText(written: string, named: () => Named): string {
  if (/(dir|joint)\[|^\s*[{[]/.test(written)) return written.trim();
  return conditionId(canonical(specsOf(written, named()) as unknown as Intervention[]));
}

/** Read once, and only for an id that needs it. */
function namedBy(files: readonly string[], runs: readonly string[]): () => Named {
  let named: Named | undefined;
  return () => {
    named ??= readNamed(files, runs);
    return named;
  };
}

function readNamed(files: readonly string[], runs: readonly string[]): Named {
  const read = runs.map(readRun);
  const paths = [
    ...files.map((path) => resolve(path)),
    ...read.flatMap(({ facts }) => directionsOfRun(facts)),
  ];
  const directions = new Map<string, string>();
  for (const [path, file] of readDirectionFiles(paths)) {
    // What a pickle holds only the worker can tell.
    if ("pickle" in file) continue;
    if (!directions.has(file.sha256)) directions.set(file.sha256, path);
  }
  const held = new Map(
    read.flatMap(({ rows }) => rows.map((row) => [row.condition, row.interventions] as const)),
  );
  return { directions, joint: (id) => held.get(id) };
}
