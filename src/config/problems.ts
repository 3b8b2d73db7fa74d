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

/** Where each key was written: "file:line" or "--set key=value". */
export class Origins {
  readonly #places = new Map<string, string>();
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  record(path: Path, place: string): void {
    this.#places.set(keyName(path), place);
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
    this.#places.set(name, place);
  }
}

export interface Problem {
  readonly code: ErrorCode;
  readonly line: string;
}

/** One line: `file:line: key: what is wrong; what is allowed`. */
export function problem(code: ErrorCode, origins: Origins, path: Path, message: string): Problem {
  const key = keyName(path);
  return {
    code,
    line: key === "" ? `${origins.of(path)}: ${message}` : `${origins.of(path)}: ${key}: ${message}`,
  };
}

/** Throws all problems as one error, under their common code where they share one. */
export function refuse(problems: readonly Problem[]): void {
  const [first, ...others] = problems;
  if (first === undefined) return;
  const code = others.every((other) => other.code === first.code) ? first.code : "config_invalid";
  throw new SparkablateError(code, [...new Set(problems.map(({ line }) => line))]);
}
