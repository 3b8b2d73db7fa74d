/**
 * YAML text → plain values and the line of every key. Refuses what a config never needs and an
 * attacker might: aliases that grow or refer to themselves, keys that reach into prototypes,
 * duplicate keys, unknown tags.
 */
import {
  type Alias,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  type Scalar,
  type YAMLMap,
  type YAMLSeq,
} from "yaml";
import { cutLongList, PLACEHOLDER } from "./chunks.ts";
import { keyName, Origins, type Path, type Problem, problem } from "./problems.ts";

const MAX_TEXT_LENGTH = 16 << 20;
/** Values that aliases may stand for in one file, all together. */
const MAX_ALIASED_VALUES = 10_000;
const MAX_DEPTH = 64;
/** Further syntax errors are mostly echoes of the first. */
const MAX_SYNTAX_ERRORS = 5;
type Node = Scalar | YAMLMap | YAMLSeq | Alias;

const FORBIDDEN_KEYS = ["__proto__", "constructor", "prototype"];

export function isForbiddenKey(key: string): boolean {
  return FORBIDDEN_KEYS.includes(key);
}

export interface Source {
  readonly value: unknown;
  readonly origins: Origins;
  readonly problems: Problem[];
}

/** Reads a file's text; `place` turns a line (from 1) into what messages call it. */
export function readYaml(text: string, place: (line: number) => string): Source {
  const origins = new Origins(place(1));
  const problems: Problem[] = [];
  if (text.length > MAX_TEXT_LENGTH) {
    const message = `is longer than ${MAX_TEXT_LENGTH >> 20} MiB, the most that is read`;
    problems.push(problem("config_invalid", origins, [], message));
    return { value: undefined, origins, problems };
  }
  const cut = cutLongList(text);
  if (cut === null) {
    const whole = parse(text, place, problems);
    if (whole === null) return { value: undefined, origins, problems };
    const reader = new Reader(origins, problems);
    return { value: reader.read(whole, []), origins, problems };
  }
  const { frame, lacking, at, pieces } = cut;
  const inFrame = (line: number): string => place(line > at + 1 ? line + lacking : line);
  const framed = parse(frame, inFrame, problems);
  if (framed === null) return { value: undefined, origins, problems };
  const parsed = pieces
    .values()
    .map((piece) => parse(piece.text, (line) => place(line + piece.line), problems));
  const reader = new Reader(origins, problems, parsed);
  const value = reader.read(framed, []);
  return { value: reader.broken ? undefined : value, origins, problems };
}

/** A tree, and where its nodes stand. */
interface Parsed {
  readonly root: Node | null;
  readonly placeOf: (node: Node) => string;
}

/** Instead of what the library tells its programmers. */
const WORDS: Readonly<Partial<Record<string, string>>> = {
  RESOURCE_EXHAUSTION: "is nested too deeply",
  MULTIPLE_DOCS: "begins a second document",
};

/** null: it is no plain YAML, and `problems` say where. */
function parse(text: string, place: (line: number) => string, problems: Problem[]): Parsed | null {
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: false, // the library's check is quadratic; the reader below does its own
  });
  const errors = [...document.errors, ...document.warnings].slice(0, MAX_SYNTAX_ERRORS);
  for (const { code, message, pos } of errors) {
    const what = WORDS[code] ?? message;
    const line = `${place(lines.linePos(pos[0]).line)}: ${what}; allowed: plain YAML`;
    problems.push({ code: "config_invalid", line });
  }
  if (errors.length > 0) return null;
  return { root: document.contents, placeOf: (node) => place(lines.linePos(node.range?.[0] ?? 0).line) };
}

class Reader {
  /** The pieces of the list whose place in the tree is held; null: one is no plain YAML. */
  readonly #pieces: Iterable<Parsed | null>;
  #placeOf: (node: Node) => string = () => "";
  readonly #origins: Origins;
  readonly #problems: Problem[];
  readonly #anchors = new Map<string, Node>();
  /** Collections that are being read: an alias of one of them contains itself. */
  readonly #open = new Set<Node>();
  /** How many aliases deep the reader is. */
  #aliasDepth = 0;
  #aliasedValues = 0;

  /** Whether a piece could not be read. */
  broken = false;

  constructor(origins: Origins, problems: Problem[], pieces: Iterable<Parsed | null> = []) {
    this.#pieces = pieces;
    this.#origins = origins;
    this.#problems = problems;
  }

  read({ root, placeOf }: Parsed, path: Path): unknown {
    this.#placeOf = placeOf;
    return this.#read(root, path, "");
  }

  /** @param around the place of what holds the node: its own is recorded where it differs. */
  #read(node: Node | null, path: Path, around: string): unknown {
    if (node === null) return null;
    if (isAlias(node)) return this.#readAlias(node.source, path);
    if (path.length > MAX_DEPTH)
      return this.#refuse(path, `is nested too deeply; allowed: ${MAX_DEPTH} levels`);
    if (this.#aliasDepth > 0 && ++this.#aliasedValues > MAX_ALIASED_VALUES) return undefined;
    if (this.#aliasDepth === 0 && node.anchor !== undefined) this.#anchors.set(node.anchor, node);
    if (isScalar(node)) return node.value;
    this.#open.add(node);
    const value = isMap(node)
      ? this.#readMap(node, path, around)
      : isSeq(node)
        ? this.#readList(node, path, around)
        : undefined;
    this.#open.delete(node);
    return value;
  }

  #readList({ items }: YAMLSeq, path: Path, around: string): unknown[] {
    const values: unknown[] = [];
    for (const item of items) {
      if (isScalar(item) && item.value === PLACEHOLDER) this.#readPieces(values, path, around);
      else values.push(this.#readItem(item as Node, [...path, values.length], around));
    }
    return values;
  }

  #readItem(item: Node, path: Path, around: string): unknown {
    const place = this.#placeOf(item);
    if (place !== around) this.#origins.record(path, place);
    return this.#read(item, path, place);
  }

  #readPieces(values: unknown[], path: Path, around: string): void {
    const placeOf = this.#placeOf;
    for (const piece of this.#pieces) {
      if (piece === null || !isSeq(piece.root)) {
        this.broken = true;
        break;
      }
      this.#placeOf = piece.placeOf;
      for (const item of piece.root.items)
        values.push(this.#readItem(item as Node, [...path, values.length], around));
    }
    this.#placeOf = placeOf;
  }

  #readMap(map: YAMLMap, path: Path, around: string): Record<string, unknown> {
    const entries = new Map<string, unknown>();
    for (const { key, value } of map.items) {
      const name = isScalar(key) ? String(key.value) : "";
      const keyPath = [...path, name];
      const place = this.#placeOf(key as Node);
      if (isForbiddenKey(name) || entries.has(name)) {
        const why = entries.has(name) ? "is written twice: keep one" : "is not a key of any config";
        this.#problems.push({ code: "config_invalid", line: `${place}: ${keyName(keyPath)}: ${why}` });
        continue;
      }
      if (place !== around) this.#origins.record(keyPath, place);
      entries.set(name, this.#read(value as Node | null, keyPath, place));
    }
    return Object.fromEntries(entries);
  }

  #readAlias(anchor: string, path: Path): unknown {
    const target = this.#anchors.get(anchor);
    if (target === undefined) {
      return this.#refuse(path, `"*${anchor}" stands for nothing: write its anchor above it`);
    }
    if (this.#open.has(target)) {
      return this.#refuse(path, `"*${anchor}" contains itself: use an anchor that ends above it`);
    }
    this.#aliasDepth++;
    const value = this.#read(target, path, "");
    this.#aliasDepth--;
    if (this.#aliasDepth === 0 && this.#aliasedValues > MAX_ALIASED_VALUES) {
      return this.#refuse(
        path,
        `aliases stand for too much; allowed: ${MAX_ALIASED_VALUES} values in a file`,
      );
    }
    return value;
  }

  #refuse(path: Path, message: string): undefined {
    this.#problems.push(problem("config_invalid", this.#origins, path, message));
    return undefined;
  }
}
