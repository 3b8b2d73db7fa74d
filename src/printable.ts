/** Text of others for people: what a terminal would obey, or a reader could not see, is written out. */

/** Controls (C0, DEL, C1), what turns the direction of writing, zero-width characters, line separators, half characters. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
const NAMED: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** On one line: a line break in a name would make a line that we never wrote. */
export const printable = (text: string): string => text.replaceAll(HIDDEN, writtenOut);

/** Text whose line breaks are its own: a traceback, what a model wrote, another program's words. */
export const printableLines = (text: string): string =>
  text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n").map(printable).join("\n");

/** JSON leaves more than C0 as it is; the value that is read back is the same. */
export const printableJson = (value: unknown, indent?: number): string =>
  JSON.stringify(value, null, indent).replaceAll(/(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (character) =>
    [...Array(character.length).keys()].map((at) => unit(character.charCodeAt(at))).join(""),
  );

const unit = (code: number): string => `\\u${code.toString(16).padStart(4, "0")}`;

function writtenOut(character: string): string {
  const code = character.codePointAt(0) as number;
  const short = NAMED[character];
  if (short !== undefined) return short;
  return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
}
