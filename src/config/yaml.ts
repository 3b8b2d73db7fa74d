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
    const message = `is longer than ${MAX_TEXT_LENGTH >> 20} MiB; allowed: less`;
    problems.push(problem("config_invalid", origins, [], message));
    return { value: undefined, origins, problems };
  }
  const lines = new LineCounter();
  const document = parseDocument(text, {
    lineCounter: lines,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: false, // the library's check is quadratic; the reader below does its own
  });
  for (const { code, message, pos } of [...document.errors, ...document.warnings].slice(
    0,
    MAX_SYNTAX_ERRORS,
  )) {
    const what = code === "RESOURCE_EXHAUSTION" ? "is nested too deeply" : message;
    const line = `${place(lines.linePos(pos[0]).line)}: ${what}; allowed: plain YAML`;
    problems.push({ code: "config_invalid", line });
  }
  if (problems.length > 0) return { value: undefined, origins, problems };
  const reader = new Reader((node) => place(lines.linePos(node.range?.[0] ?? 0).line), origins, problems);
  return { value: reader.read(document.contents, []), origins, problems };
}

class Reader {
  readonly #placeOf: (node: Node) => string;
  readonly #origins: Origins;
  readonly #problems: Problem[];
  readonly #anchors = new Map<string, Node>();
  /** Collections that are being read: an alias of one of them contains itself. */
  readonly #open = new Set<Node>();
  /** How many aliases deep the reader is. */
  #aliasDepth = 0;
  #aliasedValues = 0;

  constructor(placeOf: (node: Node) => string, origins: Origins, problems: Problem[]) {
    this.#placeOf = placeOf;
    this.#origins = origins;
    this.#problems = problems;
  }

  read(node: Node | null, path: Path): unknown {
    if (node === null) return null;
    if (isAlias(node)) return this.#readAlias(node.source, path);
    if (path.length > MAX_DEPTH)
      return this.#refuse(path, `is nested too deeply; allowed: ${MAX_DEPTH} levels`);
    if (this.#aliasDepth > 0 && ++this.#aliasedValues > MAX_ALIASED_VALUES) return undefined;
    if (this.#aliasDepth === 0 && node.anchor !== undefined) this.#anchors.set(node.anchor, node);
    if (isScalar(node)) return node.value;
    this.#open.add(node);
    const value = isMap(node)
      ? this.#readMap(node, path)
      : isSeq(node)
        ? this.#readList(node, path)
        : undefined;
    this.#open.delete(node);
    return value;
  }

  #readList(list: YAMLSeq, path: Path): unknown[] {
    return list.items.map((item, index) => {
      this.#origins.record([...path, index], this.#placeOf(item as Node));
      return this.read(item as Node, [...path, index]);
    });
  }

  #readMap(map: YAMLMap, path: Path): Record<string, unknown> {
    const entries = new Map<string, unknown>();
    for (const { key, value } of map.items) {
      const name = isScalar(key) ? String(key.value) : "";
      const keyPath = [...path, name];
      const place = this.#placeOf(key as Node);
      if (isForbiddenKey(name) || entries.has(name)) {
        const why = entries.has(name)
          ? "is written twice; allowed: once"
          : "is not a key; allowed: the documented keys";
        this.#problems.push({ code: "config_invalid", line: `${place}: ${keyName(keyPath)}: ${why}` });
        continue;
      }
      this.#origins.record(keyPath, place);
      entries.set(name, this.read(value as Node | null, keyPath));
    }
    return Object.fromEntries(entries);
  }

  #readAlias(anchor: string, path: Path): unknown {
    const target = this.#anchors.get(anchor);
    if (target === undefined) {
      return this.#refuse(path, `"*${anchor}" stands for nothing; allowed: an anchor written above it`);
    }
    if (this.#open.has(target)) {
      return this.#refuse(path, `"*${anchor}" contains itself; allowed: an anchor that ends above it`);
    }
    this.#aliasDepth++;
    const value = this.read(target, path);
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
