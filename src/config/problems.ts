/**
 * What is wrong with a config, where it was written, and how it is told: every problem at once.
 */
import { type ErrorCode, SparkablateError } from "../errors.ts";

export type Path = readonly (string | number)[];

/** `ablation.targets[2].layer`: how a key is named in messages and in `--set`. */
export function keyName(path: Path): string {
  return path.reduce<string>(
    (text, part) => (typeof part === "number" ? `${text}[${part}]` : text === "" ? part : `${text}.${part}`),
    "",
  );
}

/** How messages name a key that was written as a flag. */
export interface FlagName {
  /** The key itself. */
  readonly flag: string;
  /** Keys below it; null: by their own names, behind the flag's. */
  readonly below: string | null;
}

/** Where each key was written: "file:line" or "--set key=value". */
export class Origins {
  readonly #places = new Map<string, string>();
  readonly #flags = new Map<string, FlagName>();
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  record(path: Path, place: string): void {
    this.#places.set(keyName(path), place);
  }

  /** Says that `path` was written as a flag. */
  recordFlag(path: string, name: FlagName): void {
    this.#flags.set(path, name);
  }

  /** The flag that the key was written as, in words; undefined: it stands in a file, or nowhere. */
  flagOf(path: Path): string | undefined {
    for (let length = path.length; length > 0; length--) {
      const name = this.#flags.get(keyName(path.slice(0, length)));
      if (name === undefined) continue;
      if (length === path.length) return name.flag;
      return name.below ?? `${name.flag}: ${keyName(path.slice(length))}`;
    }
    return undefined;
  }

  /** The place of the key, or of the nearest key around it where it was not written itself. */
  of(path: Path): string {
    for (let length = path.length; length > 0; length--) {
      const place = this.#places.get(keyName(path.slice(0, length)));
      if (place !== undefined) return place;
    }
    return this.#root;
  }

  /** Says that `path` and all below it were written at `place` after all, e.g. by `--set`. */
  replace(path: Path, place: string): void {
    const name = keyName(path);
    for (const key of this.#places.keys()) {
      if (key === name || key.startsWith(`${name}.`) || key.startsWith(`${name}[`)) this.#places.delete(key);
    }
    for (const key of this.#flags.keys()) {
      if (key === name || key.startsWith(`${name}.`) || key.startsWith(`${name}[`)) this.#flags.delete(key);
    }
    this.#places.set(name, place);
  }
}

/** What a section of a config, or an entry of a list, carries where nobody sees it: copies that hold it have it too. */
const WRITTEN = Symbol("written");

interface Written {
  readonly origins: Origins;
  readonly path: Path;
}

const writtenOf = (value: object): Written | undefined => (value as { [WRITTEN]?: Written })[WRITTEN];

/** Notes on the section that it was written at `path`. */
export function noteWritten(section: object, origins: Origins, path: Path): void {
  Object.defineProperty(section, WRITTEN, { value: { origins, path }, configurable: true });
}

/** The copy, noted to be written where `original` was, or at `path` in it. */
export function asWritten<T extends object>(original: object, copy: T, path: Path = []): T {
  const written = writtenOf(original);
  if (written !== undefined) noteWritten(copy, written.origins, [...written.path, ...path]);
  return copy;
}

/** Where the key at `path` of a config was written, and under which path: as the innermost section around it says. */
function writtenAt(config: object, path: Path): Written {
  let written: Written = { origins: new Origins("config"), path };
  let here: unknown = config;
  for (let depth = 0; typeof here === "object" && here !== null; depth++) {
    // A target's single spec stands in no list where it was written.
    if (Array.isArray(here) && here.length === 1 && typeof path[depth] === "string")
      [here] = here as [object];
    const found = writtenOf(here as object);
    if (found !== undefined) written = { ...found, path: [...found.path, ...path.slice(depth)] };
    here = (here as Record<string | number, unknown>)[path[depth] ?? ""];
  }
  return written;
}

export interface Problem {
  readonly code: ErrorCode;
  readonly line: string;
}

/** One line: `file:line: key: what is wrong; what is allowed`, or `--flag: what is wrong; …`. */
export function problem(code: ErrorCode, origins: Origins, path: Path, message: string): Problem {
  const key = keyName(path);
  const flag = origins.flagOf(path);
  if (flag !== undefined) return { code, line: `${flag}: ${message}` };
  return {
    code,
    line: key === "" ? `${origins.of(path)}: ${message}` : `${origins.of(path)}: ${key}: ${message}`,
  };
}

/** Says what is wrong with a key of a config that was read earlier, at its line where that is known. */
export function configProblem(config: object, code: ErrorCode, path: Path, message: string): Problem {
  const written = writtenAt(config, path);
  return problem(code, written.origins, written.path, message);
}

/** Throws all problems as one error, under their common code where they share one. */
export function refuse(problems: readonly Problem[]): void {
  const [first, ...others] = problems;
  if (first === undefined) return;
  const code = others.every((other) => other.code === first.code) ? first.code : "config_invalid";
  throw new SparkablateError(code, [...new Set(problems.map(({ line }) => line))]);
}
