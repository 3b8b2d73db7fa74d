/**
 * Names and paths in a config → what they mean here, checked before any Python starts. Paths are
 * relative to where the user stands; `shipped:` means the package's own configs directory.
 */
import {
  accessSync,
  constants,
  existsSync,
  lstatSync,
  readdirSync,
  realpathSync,
  type Stats,
  statSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, dirname, join, parse, relative, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import type { ErrorCode } from "../errors.ts";
import { didYouMean } from "../suggest.ts";
import { leaf } from "./leaves.ts";

const SHIPPED_DIRECTORY = fileURLToPath(new URL("../../configs/", import.meta.url));
const SHIPPED_PREFIX = "shipped:";
const BUILTIN_MODELS = ["builtin:smollm2-135m"] as const;
const HUB_NAME = /^[\w.-]{1,96}(?:\/[\w.-]{1,96})?$/;

export type Complain = (code: ErrorCode, message: string) => void;

/** A leaf that turns a written text into what it stands for; `meaning` complains and returns undefined where it cannot. */
export function resolved<T>(allowed: string, meaning: (text: string, complain: Complain) => T | undefined) {
  const text = z.string(leaf(allowed)).min(1, leaf(allowed)).max(4096, leaf(allowed));
  return text.transform((written, context): T => {
    const complain: Complain = (code, message) =>
      context.addIssue({ code: "custom", message: `${message}; allowed: ${allowed}`, params: { code } });
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
    if (/[\x00-\x1f]/.test(written)) complain("config_invalid", "contains control characters");
    else {
      const value = meaning(written, complain);
      if (value !== undefined) return value;
    }
    return z.NEVER;
  });
}

/** Facts about a file, or undefined after a complaint that says why there are none. */
function facts(path: string, code: ErrorCode, complain: Complain): Stats | undefined {
  try {
    const stats = statSync(path);
    accessSync(path, constants.R_OK);
    return stats;
  } catch (error) {
    const { code: cause } = error as NodeJS.ErrnoException;
    const near = cause === "ENOENT" ? neighbour(path) : "";
    complain(
      code,
      cause === "ENOENT" ? `${path} does not exist${near}` : `${path} cannot be read (${cause})`,
    );
    return undefined;
  }
}

/** Behind "does not exist": a file of nearly the same name in the same directory. */
export function neighbour(path: string): string {
  const directory = dirname(path);
  const stats = statSync(directory, { throwIfNoEntry: false });
  if (!stats?.isDirectory()) return "";
  try {
    return didYouMean(basename(path), readdirSync(directory));
  } catch {
    return ""; // it may not be listed: nothing to suggest
  }
}

export function absolute(written: string, cwd: string): string {
  return written.startsWith("~/") ? join(homedir(), written.slice(2)) : resolve(cwd, written);
}

/** The absolute path of an existing, readable file. */
export function existingFile(written: string, cwd: string, complain: Complain): string | undefined {
  const path = written.startsWith(SHIPPED_PREFIX)
    ? resolve(SHIPPED_DIRECTORY, written.slice(SHIPPED_PREFIX.length))
    : absolute(written, cwd);
  if (written.startsWith(SHIPPED_PREFIX) && !path.startsWith(SHIPPED_DIRECTORY)) {
    complain("config_invalid", `${written} leaves the directory of shipped files`);
    return undefined;
  }
  const stats = facts(path, "input_missing", complain);
  if (stats === undefined) return undefined;
  if (stats.isFile()) return path;
  complain("input_missing", `${path} is not a file`);
  return undefined;
}

function looksLocal(written: string): boolean {
  return /^(\.{0,2}\/|~\/|\.{1,2}$)/.test(written);
}

/** Where `written` means a directory here (it says so, or there is one), its absolute path. */
export function localDirectory(written: string, cwd: string): string | undefined {
  const path = absolute(written, cwd);
  return looksLocal(written) || statSync(path, { throwIfNoEntry: false })?.isDirectory() ? path : undefined;
}

const isFileHere = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;

/** model.name: the built-in name, a Hugging Face id, or the absolute path of a local directory. */
/** What Python's sweep() calls a model of which it knows the tensors alone. */
const IN_MEMORY = "in-memory:";

export function modelName(cwd: string) {
  const allowed = `a Hugging Face id, a local model directory, or ${BUILTIN_MODELS.join(", ")}`;
  return resolved(allowed, (written, complain) => {
    if (written.startsWith("builtin:")) {
      if ((BUILTIN_MODELS as readonly string[]).includes(written)) return written;
      complain(
        "model_not_found",
        `"${written}" is not a built-in model${didYouMean(written, BUILTIN_MODELS)}`,
      );
      return undefined;
    }
    if (written.startsWith(IN_MEMORY)) {
      complain(
        "model_not_found",
        `"${written}" was an object in Python, which no command can load: go on with it by sweep(…, dir=…) in Python`,
      );
      return undefined;
    }
    const path = localDirectory(written, cwd);
    if (isFileHere(path ?? absolute(written, cwd))) {
      complain("model_not_found", `${absolute(written, cwd)} is a file, not a model directory`);
      return undefined;
    }
    if (path === undefined) {
      if (HUB_NAME.test(written)) return written;
      complain("model_not_found", `"${written}" is neither a Hugging Face id nor a directory in ${cwd}`);
      return undefined;
    }
    const stats = facts(path, "model_not_found", complain);
    if (stats === undefined) return undefined;
    const isModel = (name: string) => name === "config.json" || name.endsWith(".gguf");
    if (stats.isDirectory() && readdirSync(path).some(isModel)) return path;
    complain("model_not_found", `${path} is not a model directory: it has no config.json`);
    return undefined;
  });
}

/** The absolute path of a directory that holds a run. */
export function runDirectory(cwd: string) {
  return resolved("the directory of a finished run", (written, complain) => {
    const path = absolute(written, cwd);
    if (isRun(path)) return path;
    const near = existsSync(path) ? "" : neighbour(path);
    complain(
      "input_missing",
      existsSync(path) ? `${path} has no results.sqlite` : `${path} does not exist${near}`,
    );
    return undefined;
  });
}

/** output.dir: an absolute path that no symbolic link leads into another run, nor lies inside one. */
export function outputDirectory(cwd: string) {
  return resolved("a directory of the run's own", (written, complain) => {
    const path = absolute(written, cwd);
    if (`${cwd}${sep}`.startsWith(`${path}${path.endsWith(sep) ? "" : sep}`)) {
      complain("config_invalid", `${path} contains your working directory`);
      return undefined;
    }
    try {
      const fault = outputFault(path);
      if (fault !== undefined) complain(fault.code, fault.message);
    } catch (error) {
      complain("config_invalid", `${path} cannot be used (${(error as NodeJS.ErrnoException).code})`);
    }
    return path;
  });
}

/** Whether a run lies here, finished or not. */
export const isRun = (directory: string): boolean => existsSync(join(directory, "results.sqlite"));

/** Walks down to `path` and says what is in the way, if anything. */
function outputFault(path: string): { code: ErrorCode; message: string } | undefined {
  const { root } = parse(path);
  let here = root;
  for (const part of relative(root, path).split(sep)) {
    if (isRun(here)) return { code: "other_run", message: `lies inside the run ${here}` };
    here = join(here, part);
    const stats = lstatSync(here, { throwIfNoEntry: false });
    if (stats === undefined) return undefined;
    if (stats.isSymbolicLink()) {
      if (!existsSync(here))
        return { code: "config_invalid", message: `${here} is a symbolic link to nothing` };
      const target = enclosingRun(realpathSync(here));
      if (target !== undefined) {
        return {
          code: "other_run",
          message: `goes through the symbolic link ${here} into the run ${target}`,
        };
      }
    }
    if (!statSync(here).isDirectory()) return { code: "config_invalid", message: `${here} is a file` };
  }
  return undefined;
}

/** The run directory that `directory` is or lies in. */
function enclosingRun(directory: string): string | undefined {
  if (isRun(directory)) return directory;
  const parent = dirname(directory);
  return parent === directory ? undefined : enclosingRun(parent);
}
