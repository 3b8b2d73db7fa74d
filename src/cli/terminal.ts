/**
 * The one way to the terminal. What is not marked as ours is text: a control character in it is written out, so that
 * no message can forget it.
 */
import { stripVTControlCharacters, styleText } from "node:util";
import wrapAnsi from "wrap-ansi";
import { printable, printableJson, printableLines } from "../printable.ts";

/** Text that a terminal may be given as it stands: line breaks and colours in it are ours. */
export class Words {
  readonly text: string;

  private constructor(text: string) {
    this.text = text;
  }

  /** Made by a function that wrote out the names in it by itself, e.g. a table's. */
  static made(text: string): Words {
    return new Words(text);
  }
}

type Part = string | number | Words;

const shown = (part: Part): string => (part instanceof Words ? part.text : printable(String(part)));

/** A template tag: what stands in the template is ours, what is put into it is text. */
export const words = (template: TemplateStringsArray, ...parts: readonly Part[]): Words =>
  Words.made(
    template.map((own, index) => own + (index < parts.length ? shown(parts[index] as Part) : "")).join(""),
  );

/** One below the other. */
export const lines = (parts: readonly Part[]): Words => Words.made(parts.map(shown).join("\n"));

/** Another program's or a model's text, whose line breaks stay. */
export const quoted = (text: string, indent = ""): Words =>
  Words.made(
    printableLines(text.trimEnd())
      .split("\n")
      .map((line) => indent + line)
      .join("\n"),
  );

/** `styleText` for stderr: no colour into a pipe or under NO_COLOR. */
export const paint = (style: Parameters<typeof styleText>[0], text: Part): Words =>
  Words.made(styleText(style, shown(text), { stream: process.stderr }));

/** `styleText` for stdout, where the result is text that is made already. */
export const styled = (style: Parameters<typeof styleText>[0], text: string): string =>
  styleText(style, text, { stream: process.stdout });

/** A table on stdout: of all its rows and columns where nobody watches, and plain, as under NO_COLOR. */
export const tableOptions = (top: number | null) => ({
  top,
  width: process.stdout.isTTY ? process.stdout.columns : null,
  paint: styled,
});

/** Words for people: stderr, so that stdout stays the result's. */
export function say(text: Part): void {
  process.stderr.write(`${fitted(shown(text), process.stderr)}\n`);
}

/** The result, on stdout. */
export function print(text: Part): void {
  process.stdout.write(`${shown(text).replace(/\n$/, "")}\n`);
}

/** As `print`, broken as `fitted` does. */
export function printFitted(text: Part, hanging = ""): void {
  process.stdout.write(`${fitted(shown(text), process.stdout, hanging)}\n`);
}

/** @param indent spaces a level; none: on one line. */
export function printJson(value: unknown, indent = 1): void {
  process.stdout.write(`${printableJson(value, indent)}\n`);
}

/**
 * Text as a terminal shows it best: broken between words. A pipe gets whole lines, and an indented line (a command,
 * a traceback) stays as it is, to be copied.
 * @param hanging what stands before the lines that a broken one goes on in.
 */
function fitted(text: string, { isTTY, columns }: NodeJS.WriteStream, hanging = ""): string {
  if (!isTTY || !(columns > hanging.length)) return text;
  const broken = text.split("\n").map((line) => {
    if (line.startsWith("  ") || stripVTControlCharacters(line).length <= columns) return line;
    const [first = "", ...rest] = wrapAnsi(line, columns - hanging.length).split("\n");
    return [first, ...rest.map((part) => `${hanging}${part}`)].join("\n");
  });
  return broken.join("\n");
}
