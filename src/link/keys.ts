/** Keys of an authenticated TCP link, one a file. The directory is named on command lines; keys never are. */
import {
  chmodSync,
  existsSync,
  readFileSync,
  realpathSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve, sep } from "node:path";
import { SparkablateError } from "../errors.ts";
import { requireDirectory } from "../files.ts";

/** 32 bytes each, in ZeroMQ's base 85. */
export interface KeyPair {
  readonly publicKey: string;
  readonly secretKey: string;
}
/** What a controller proves itself with, and the worker's public key, without which it sends nothing. */
export interface ControllerKeys extends KeyPair {
  readonly workerKey: string;
}

const KEY = /^[0-9a-zA-Z.\-:+=^!/*?&<>()[\]{}@%$#]{40}$/;
const LOOPBACK = /^tcp:\/\/(127\.0\.0\.1|localhost|\[::1\]):/;
const OTHERS = 0o077;
const STICKY = 0o1000;

/** --keys, else $SPARKABLATE_KEYS, else the user's configuration directory. */
export function keysDirectory(asked?: string): string {
  const configuration = process.env.XDG_CONFIG_HOME || join(homedir(), ".config");
  return resolve(asked || process.env.SPARKABLATE_KEYS || join(configuration, "sparkablate", "keys"));
}

const isInside = (path: string, directory: string): boolean =>
  `${path}${sep}`.startsWith(directory.endsWith(sep) ? directory : `${directory}${sep}`);

export const isLoopback = (address: string): boolean => LOOPBACK.test(address);

/**
 * The directory whose keys an address asks for; null where it needs none: `ipc://`, and loopback while there are no
 * keys. Elsewhere anybody could listen or answer.
 * @param own which secret key is needed there.
 * @throws SparkablateError input_missing, with the command that makes keys.
 */
export function keysFor(address: string, own: "controller" | "worker", asked?: string): string | null {
  if (!address.startsWith("tcp://")) return null;
  const directory = keysDirectory(asked);
  if (existsSync(join(directory, `${own}.key`))) return directory;
  if (isLoopback(address) && asked === undefined && !process.env.SPARKABLATE_KEYS) return null;
  const why = isLoopback(address) ? "" : `; ${address} can be reached by others, so both sides need keys`;
  throw missing(join(directory, `${own}.key`), directory, why);
}

/** @throws SparkablateError input_missing for a file that is missing, open to others, or no key. */
export function readControllerKeys(directory: string): ControllerKeys {
  const secret = join(directory, "controller.key");
  const keys = {
    secretKey: readKey(secret, directory),
    publicKey: readKey(join(directory, "controller.pub"), directory),
    workerKey: readKey(join(directory, "worker.pub"), directory),
  };
  if ((statSync(secret).mode & OTHERS) !== 0) {
    throw new SparkablateError("input_missing", `others may read ${secret}`, {
      help: `Run 'chmod 600 ${secret}', or make new keys if somebody may have read it.`,
    });
  }
  return keys;
}

/**
 * Directories that others use too, which a directory of keys may not be: the user's own, what is above it or above the
 * place for temporary files, and what is sticky or another user's.
 */
function requirePrivate(directory: string, stats: Stats): void {
  const real = realpathSync(directory);
  const above = (path: string): boolean => existsSync(path) && isInside(realpathSync(path), real);
  const shared = above(homedir()) || above(tmpdir()) || (stats.mode & STICKY) !== 0;
  if (!shared && (process.getuid === undefined || stats.uid === process.getuid())) return;
  throw new SparkablateError("usage", `${directory} holds more than keys, and would become private to you`, {
    help: "Name a directory for the keys alone, or leave --keys out to use the default.",
  });
}

/**
 * Writes both pairs.
 * @param make gives a new pair.
 * @returns the files' paths, and the mode that the directory had where others could use it; null where they could not.
 * @throws SparkablateError usage where keys are there already, unless `force`, and for a directory that others use too.
 */
export function writeKeys(
  directory: string,
  make: () => KeyPair,
  force: boolean,
): { files: string[]; narrowed: number | null } {
  const files = (["controller", "worker"] as const).flatMap((name) => {
    const { publicKey, secretKey } = make();
    return [
      { path: join(directory, `${name}.key`), text: secretKey },
      { path: join(directory, `${name}.pub`), text: publicKey },
    ];
  });
  const there = files.find(({ path }) => existsSync(path));
  if (there !== undefined && !force) {
    throw new SparkablateError("usage", `${there.path} exists`, {
      help: "Pass --force to replace the keys; workers and controllers with the old ones are then no longer let in.",
    });
  }
  const before = statSync(directory, { throwIfNoEntry: false });
  if (before !== undefined) requirePrivate(directory, before);
  requireDirectory(directory, 0o700, "Choose another directory with --keys.");
  chmodSync(directory, 0o700);
  for (const { path, text } of files) {
    rmSync(path, { force: true }); // an old file's mode would be kept
    writeFileSync(path, `${text}\n`, { mode: 0o600, flag: "wx" });
  }
  const narrowed = before !== undefined && (before.mode & OTHERS) !== 0 ? before.mode & 0o777 : null;
  return { files: files.map(({ path }) => path), narrowed };
}

function readKey(file: string, directory: string): string {
  if (!existsSync(file)) throw missing(file, directory, "");
  // A worker's list of controllers may have more lines; the first is this machine's own.
  const key = readFileSync(file, "utf8").trim().split("\n", 1)[0] ?? "";
  // Never quoted: it may be a secret with a slip in it.
  if (!KEY.test(key))
    throw new SparkablateError("input_missing", `${file} does not hold a key of 40 characters`);
  return key;
}

function missing(file: string, directory: string, why: string): SparkablateError {
  const option = directory === keysDirectory() ? "" : ` --keys ${directory}`;
  return new SparkablateError("input_missing", `${file} does not exist${why}`, {
    help: `Run 'sparkablate keys init${option}'; docs/dgx-spark.md says which files the other side needs.`,
  });
}
