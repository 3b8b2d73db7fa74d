/** Paths here ↔ paths as a worker in a container sees them, by the mounts that it tells in hello. */
import { realpathSync } from "node:fs";
import { basename, dirname, join, resolve, sep } from "node:path";
import { SparkablateError } from "../errors.ts";
import type { RequestType, Result } from "../protocol/messages.ts";
import { isLoopback } from "./keys.ts";

type Mount = Result<"hello">["mounts"][number];

/** A path of a request: where it stands, and whether the worker writes there. */
interface PathRule {
  readonly at: readonly string[];
  readonly write: boolean;
}
const MODEL: PathRule = { at: ["model", "name"], write: false };
const OUT: PathRule = { at: ["out"], write: true };
const PATHS: Readonly<Partial<Record<RequestType, readonly PathRule[]>>> = {
  load: [MODEL],
  inspect: [MODEL],
  tokenize: [{ at: ["dataset", "path"], write: false }],
  check_bake: [MODEL, OUT],
  bake: [OUT],
};

/** The worker's paths in a result that a person is to find here. */
const PLACES: Readonly<Partial<Record<RequestType, readonly string[]>>> = {
  load: ["source"],
  bake: ["directory"],
};
/** Commands in a result that a person is to type here. */
const COMMANDS: Readonly<Partial<Record<RequestType, readonly string[]>>> = { bake: ["gguf_command"] };

/** A word as Python's shlex.quote writes it. */
const SHELL_WORD = /'[^']*'(?:"'"'[^']*')*|[^\s']+/g;
const QUOTE = `'"'"'`;
const NEEDS_NO_QUOTES = /^[\w@%+=:,./-]+$/;

/**
 * Maps what goes out and what comes back. Without mounts the two sides see the same files; over TCP from elsewhere
 * paths are the worker's own.
 */
export class Mounts {
  readonly #mounts: readonly Mount[];

  /** @param address where the worker listens; its relative mounts are those of a compose file two directories above. */
  constructor(address: string, mounts: readonly Mount[]) {
    const socket = address.startsWith("ipc://") ? address.slice("ipc://".length) : undefined;
    const shared = socket !== undefined || isLoopback(address);
    const base = socket === undefined ? "/" : resolve(dirname(socket), "..", "..");
    this.#mounts = shared
      ? mounts
          .filter(({ host }) => socket !== undefined || host.startsWith("/"))
          .map((mount) => ({ ...mount, host: realPath(resolve(base, mount.host)) }))
          .toSorted((a, b) => b.host.length - a.host.length)
      : [];
  }

  /** @throws SparkablateError path_not_shared, with the mounts. */
  outgoing<T>(type: RequestType, fields: T): T {
    const rules = this.#mounts.length === 0 ? [] : (PATHS[type] ?? []);
    return rules.reduce(
      (mapped, { at, write }) =>
        replaced(mapped, at, (path) => (path.startsWith("/") ? this.#toWorker(path, write) : path)),
      fields,
    );
  }

  incoming<T>(type: RequestType, result: T): T {
    const path = (text: string): string => this.#toHost(text);
    const command = (text: string): string => text.replaceAll(SHELL_WORD, (word) => this.#wordToHost(word));
    const paths = (PLACES[type] ?? []).reduce((mapped, name) => replaced(mapped, [name], path), result);
    return (COMMANDS[type] ?? []).reduce((mapped, name) => replaced(mapped, [name], command), paths);
  }

  #toWorker(path: string, write: boolean): string {
    const real = realPath(path);
    const mount = this.#mounts.find(({ host, writable }) => isInside(real, host) && (writable || !write));
    if (mount !== undefined) return join(mount.worker, real.slice(mount.host.length));
    const listed = this.#mounts.map(({ host, writable }) => `${host}${writable ? "" : " (read only)"}`);
    throw new SparkablateError(
      "path_not_shared",
      `${real} is not shared with the worker${write ? " for writing" : ""}; it sees ${listed.join(", ")}`,
    );
  }

  #toHost(path: string): string {
    const mount = this.#mounts
      .toSorted((a, b) => b.worker.length - a.worker.length)
      .find(({ worker }) => isInside(path, worker));
    return mount === undefined ? path : join(mount.host, path.slice(mount.worker.length));
  }

  #wordToHost(word: string): string {
    const path = word.startsWith("'") ? word.slice(1, -1).replaceAll(QUOTE, "'") : word;
    const here = this.#toHost(path);
    if (here === path) return word;
    return NEEDS_NO_QUOTES.test(here) ? here : `'${here.replaceAll("'", QUOTE)}'`;
  }
}

const isInside = (path: string, directory: string): boolean =>
  path === directory || path.startsWith(directory.endsWith(sep) ? directory : `${directory}${sep}`);

/** Also of a path whose last parts do not exist yet, or may not be looked at: whoever opens it says what is wrong. */
function realPath(path: string): string {
  try {
    return realpathSync(path);
  } catch (error) {
    const parent = dirname(path);
    if (parent === path) throw error;
    return join(realPath(parent), basename(path));
  }
}

/** A copy with another text at a place, where there is a text. */
function replaced<T>(fields: T, [name, ...rest]: readonly string[], change: (text: string) => string): T {
  const value = (fields as Record<string, unknown> | null)?.[name ?? ""];
  if (rest.length > 0 && value !== null && typeof value === "object")
    return { ...fields, [name ?? ""]: replaced(value, rest, change) };
  return rest.length === 0 && typeof value === "string" ? { ...fields, [name ?? ""]: change(value) } : fields;
}
