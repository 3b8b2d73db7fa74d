/**
 * The references of both APIs, which are made for a release and not kept: api-typescript.md out of the doc comments of
 * src/, api-python.md out of the docstrings. A public name without a comment is an error.
 *
 *   npm run reference [-- --out DIR | --check]
 *
 * They go into docs/ (or --out DIR); --check makes them and keeps nothing.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { execa } from "execa";
import { packageRoot } from "../src/environment/environment.ts";
import { typescriptReference } from "./typescript-reference.ts";

const ROOT = packageRoot();

/** File name → text. @param python an interpreter that has the worker's packages. */
export async function references(python: string): Promise<Readonly<Record<string, string>>> {
  const script = join(ROOT, "test", "python", "python_reference.py");
  const env = { PYTHONPATH: join(ROOT, "worker"), PYTHONIOENCODING: "utf-8" };
  const ofPython = await execa(python, [script], { env, stripFinalNewline: false });
  return { "api-typescript.md": await typescriptReference(), "api-python.md": ofPython.stdout };
}

/** Writes them into a directory. */
export async function writeReferences(directory: string, python: string): Promise<void> {
  const pages = await references(python);
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries(pages)) writeFileSync(join(directory, name), text);
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      out: { type: "string", default: join(ROOT, "docs") },
      python: { type: "string" },
      check: { type: "boolean", default: false },
    },
  });
  if (values.python === undefined) throw new Error("--python is missing: 'npm run reference' fills it in");
  if (values.check) await references(values.python);
  else await writeReferences(resolve(values.out), values.python);
}
