/** A token's bytes for people: every one can be told from every other, white space and broken characters included. */

/** What stands for them; a backslash is doubled, so that an escape is never taken for text. */
const SHOWN: Readonly<Record<string, string>> = { "\n": "↵", "\r": "\\r", "\t": "→", "\\": "\\\\" };
/** Characters that the signs for white space would be mixed up with. */
const SIGNS = ["↵", "→", "␣"];
/** Controls, marks that turn the direction of writing, and spaces other than the common one. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}]|(?! )\p{Zs}/u;

/** A piece of a shown text: one character, or one byte that is none. */
function* pieces(bytes: Uint8Array): Generator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let at = 0; at < bytes.length; ) {
    const lead = bytes[at] as number;
    const length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    try {
      yield visible(decoder.decode(bytes.subarray(at, at + length)));
      at += length;
    } catch {
      yield `\\x${lead.toString(16).padStart(2, "0")}`;
      at++;
    }
  }
}

function visible(character: string): string {
  const sign = SHOWN[character];
  if (sign !== undefined) return sign;
  if (!SIGNS.includes(character) && !HIDDEN.test(character)) return character;
  return `\\u{${(character.codePointAt(0) as number).toString(16)}}`;
}

const withSpaces = (text: string): string => "␣".repeat(text.length);

/** The token itself: its spaces are seen too. */
export const shownToken = (bytes: Uint8Array): string =>
  [...pieces(bytes)].map((piece) => (piece === " " ? withSpaces(piece) : piece)).join("");

/** The text before a token, its last `most` characters; spaces that touch the token are seen. */
export const shownBefore = (bytes: Uint8Array, most: number): string =>
  [...pieces(bytes)].slice(-most).join("").replace(/ +$/, withSpaces);

/** The text behind a token. */
export const shownAfter = (bytes: Uint8Array, most: number): string =>
  [...pieces(bytes)].slice(0, most).join("").replace(/^ +/, withSpaces);
