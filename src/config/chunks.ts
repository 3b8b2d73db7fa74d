/**
 * A list of thousands of targets, cut into pieces that are parsed one after the other: the tree of a whole text takes
 * a hundred times its length, and lives until its end is read.
 */

/** Shorter texts are parsed whole. */
const LONG_TEXT = 1 << 17;
const LINES_A_PIECE = 256;
/** Stands where the list stood. Nobody writes a private-use character. */
export const PLACEHOLDER = "\ue0f7list";
/** No anchor, alias, tag, quote, comment or block text, any of which could reach beyond its own line. */
const PLAIN_LINE = /^ *[-\w{}[\]][^&*!|>%"'#@`\t]*$/;

interface Piece {
  readonly text: string;
  /** Of its first line in the whole text, from 0. */
  readonly line: number;
}

interface Cut {
  /** The text with one item, the placeholder, in place of the list's. */
  readonly frame: string;
  /** Lines that the frame lacks, and the one in the frame behind which they were. */
  readonly lacking: number;
  readonly at: number;
  readonly pieces: readonly Piece[];
}

/** null: the text is short, or its longest list is not plain enough to be cut. */
export function cutLongList(text: string): Cut | null {
  if (text.length < LONG_TEXT || text.includes(PLACEHOLDER)) return null;
  const lines = text.split("\n");
  const list = longestList(lines);
  if (list === null) return null;
  const { first, end, indent } = list;
  const item = `${" ".repeat(indent)}- `;
  const pieces: Piece[] = [];
  for (let line = first; line < end; ) {
    let next = Math.min(line + LINES_A_PIECE, end);
    while (next < end && !lines[next]?.startsWith(item)) next++;
    pieces.push({ text: lines.slice(line, next).join("\n"), line });
    line = next;
  }
  const frame = [...lines.slice(0, first), item + PLACEHOLDER, ...lines.slice(end)].join("\n");
  return { frame, lacking: end - first - 1, at: first, pieces };
}

/** Consecutive plain lines of which the least indented begin items. */
function longestList(lines: readonly string[]): { first: number; end: number; indent: number } | null {
  let longest: { first: number; end: number; indent: number } | null = null;
  for (let line = 0; line < lines.length; line++) {
    const indent = /^( *)- /.exec(lines[line] ?? "")?.[1]?.length;
    if (indent === undefined) continue;
    const first = line;
    while (line < lines.length && belongs(lines[line] as string, indent)) line++;
    if (line - first > LINES_A_PIECE && line - first > (longest ? longest.end - longest.first : 0))
      longest = { first, end: line, indent };
    if (line > first) line--;
  }
  return longest;
}

function belongs(line: string, indent: number): boolean {
  if (!PLAIN_LINE.test(line)) return false;
  const own = line.length - line.trimStart().length;
  return own > indent || (own === indent && line.startsWith("- ", indent));
}
