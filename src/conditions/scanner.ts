/** A text that is read from left to right; what is wrong with it is said with the text in front. */
import { SparkablateError } from "../errors.ts";

/** Characters of the text that a message repeats. */
const SHOWN = 120;

export class Scanner {
  readonly text: string;
  #at = 0;

  constructor(text: string) {
    this.text = text;
  }

  /** What is left to read. */
  get rest(): string {
    return this.text.slice(this.#at);
  }

  /** What has been read since `from`, an earlier `place`. */
  since(from: number): string {
    return this.text.slice(from, this.#at).trim();
  }

  get place(): number {
    return this.#at;
  }

  space(): void {
    this.take(/[ \t]+/y);
  }

  /** What matches here, and is then read. @param pattern sticky. */
  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const found = pattern.exec(this.text)?.[0];
    this.#at += found?.length ?? 0;
    return found;
  }

  /** The name that stands here, the longest first: one may be the beginning of another. */
  name<N extends string>(known: readonly N[]): N | undefined {
    const { rest } = this;
    const found = known
      .toSorted((a, b) => b.length - a.length)
      .find((name) => rest.startsWith(name) && !/^\w/.test(rest.slice(name.length)));
    this.#at += found?.length ?? 0;
    return found;
  }

  /** What stands here up to the next sign; it stays to be read. */
  word(): string {
    return /^[^.,[\]()@+\s]*/.exec(this.rest)?.[0] ?? "";
  }

  /** Refuses what stands where a name was to be. */
  unknown(what: string, known: readonly string[]): never {
    const word = this.word();
    return this.fail(
      `${word === "" ? `the ${what} is missing` : `"${word}" is no ${what}`}; allowed: ${known.join(", ")}`,
    );
  }

  fail(what: string, code: "config_invalid" | "conditions_overlap" = "config_invalid"): never {
    const { text } = this;
    const shown = text.length > SHOWN ? `${text.slice(0, SHOWN - 1)}…` : text;
    throw new SparkablateError(code, `"${shown}": ${what}`);
  }
}
