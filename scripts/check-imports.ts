/**
 * Import directions: `cli → controller → {conditions, slices, link, store, statistics} → protocol → errors`,
 * `report → {store, statistics}`; in Python `server → engines → the engine's modules`. Also no cycles.
 */
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";

interface Rule {
  readonly of: RegExp;
  /** What only the files of `by` may import. */
  readonly only?: { readonly what: RegExp; readonly by: RegExp };
  /** All that these files may import of ours. */
  readonly may?: RegExp;
  readonly why: string;
}

const ALL = /^/;
/** Files are named as in the repository: src/errors.ts, worker/sparkablate/measure/walk.py; packages by their name. */
const RULES: readonly Rule[] = [
  { of: /^src\/errors\.ts$/, may: /^$/, why: "errors import nothing of ours" },
  {
    of: /^src\/protocol\//,
    may: /^src\/(protocol\/|samples\/|errors\.ts$)/,
    why: "the protocol knows errors alone",
  },
  { of: /^src\/statistics\//, may: /^src\/(statistics\/|errors\.ts$)/, why: "statistics are pure" },
  {
    of: /^src\/report\//,
    may: /^src\/(report\/|store\/|statistics\/|conditions\/ids\.ts$|(rows|packed-rows|ranking|metrics|summary|tokens|errors|files|printable|protocol|version)\.ts$)/,
    why: "a report reads run directories through the store, and needs no worker",
  },
  {
    of: /^src\/link\//,
    may: /^src\/(link\/|environment\/|protocol\/|(errors|files)\.ts$)/,
    why: "the link carries, it does not decide",
  },
  {
    of: /^src\/environment\//,
    may: /^src\/(environment\/|store\/lock\.ts$|(errors|files)\.ts$)/,
    why: "set-up needs no worker",
  },
  { of: ALL, only: { what: /^src\/cli\//, by: /^src\/cli\// }, why: "the CLI is a user of the library" },
  {
    of: ALL,
    only: { what: /^src\/controller\.ts$/, by: /^src\/(cli\/|index\.ts$)/ },
    why: "the controller is the story, not a part",
  },
  { of: ALL, only: { what: /^zeromq$/, by: /^src\/link\/channel\.ts$/ }, why: "one file knows the socket" },
  {
    of: ALL,
    only: { what: /^better-sqlite3$/, by: /^src\/store\// },
    why: "one directory knows the database",
  },
  {
    of: ALL,
    only: { what: /^zmq/, by: /^worker\/sparkablate\/server\/loop\.py$/ },
    why: "one file knows the socket",
  },
  {
    of: ALL,
    only: { what: /^worker\/sparkablate\/server\//, by: /^worker\/sparkablate\/server\// },
    why: "notebooks use the engine without the server",
  },
  {
    of: ALL,
    only: { what: /^worker\/sparkablate\/engines\//, by: /^worker\/sparkablate\/(server|engines)\// },
    why: "engines are for the server",
  },
];

interface Import {
  readonly what: string;
  /** Types vanish when compiled: they make no cycle. */
  readonly typeOnly: boolean;
}

function importsOfTypeScript(file: string, text: string): Import[] {
  const found = text.matchAll(/^(?:import|export)\s+(type\s)?[^;]*?\sfrom\s+"([^"]+)"|^import\s+"([^"]+)"/gm);
  return [...found].map(([, typeOnly, from, bare]) => {
    const name = from ?? bare ?? "";
    return {
      what: name.startsWith(".") ? normalize(join(dirname(file), name)) : name,
      typeOnly: typeOnly !== undefined,
    };
  });
}

/** Imports inside functions count as well: they are how a cycle is hidden. Docstrings hold examples, not imports. */
function importsOfPython(file: string, text: string): Import[] {
  const inPackage = new Set(files);
  const found = text
    .replaceAll(/"""[\s\S]*?"""/g, "")
    .matchAll(/^\s*(?:from\s+(\.*[\w.]*)\s+import\s+(\([^)]*\)|[^\n#]+)|import\s+([\w.]+))/gm);
  return [...found].flatMap(([, from, names = "", plain]) => {
    const module = from ?? plain ?? "";
    const base = pythonModule(file, module);
    if (base === undefined) return [{ what: module, typeOnly: false }];
    const members = names.replaceAll(/[()]/g, "").split(",");
    const submodules = members
      .map((member) => `${base}/${member.trim().split(/\s/)[0]}.py`)
      .filter((path) => inPackage.has(path));
    const own = [`${base}.py`, `${base}/__init__.py`].filter((path) => inPackage.has(path));
    return (submodules.length > 0 ? submodules : own).map((what) => ({ what, typeOnly: false }));
  });
}

/** The path of one of our modules, without its suffix; undefined for other packages. */
function pythonModule(file: string, module: string): string | undefined {
  const dots = /^\.*/.exec(module)?.[0].length ?? 0;
  const rest = module.slice(dots).replaceAll(".", "/");
  if (dots > 0) return normalize(join(dirname(file), ...Array<string>(dots - 1).fill(".."), rest));
  return rest === "sparkablate" || rest.startsWith("sparkablate/") ? `worker/${rest}` : undefined;
}

const root = join(import.meta.dirname, "..");
const files = globSync(["src/**/*.ts", "worker/sparkablate/**/*.py"], { cwd: root })
  .map((file) => relative("", file))
  .sort();
const imports = new Map<string, Import[]>(
  files.map((file) => {
    const text = readFileSync(join(root, file), "utf8");
    return [file, file.endsWith(".py") ? importsOfPython(file, text) : importsOfTypeScript(file, text)];
  }),
);

const isOurs = (what: string): boolean => what.startsWith("src/") || what.startsWith("worker/");
const problems: string[] = [];
for (const [file, found] of imports) {
  for (const { what } of found) {
    for (const { of, only, may, why } of RULES) {
      if (!of.test(file)) continue;
      const forbidden =
        only !== undefined ? only.what.test(what) && !only.by.test(file) : isOurs(what) && !may?.test(what);
      if (forbidden) problems.push(`${file} imports ${what}: ${why}`);
    }
  }
}

const finished = new Set<string>();
function findCycle(file: string, path: readonly string[]): void {
  if (path.includes(file)) {
    problems.push(`cycle: ${[...path.slice(path.indexOf(file)), file].join(" → ")}`);
    return;
  }
  if (finished.has(file)) return;
  for (const { what, typeOnly } of imports.get(file) ?? []) if (!typeOnly) findCycle(what, [...path, file]);
  finished.add(file);
}
for (const file of files) findCycle(file, []);

for (const problem of problems) console.error(problem);
console.log(`import directions: ${files.length} files, ${problems.length} problems`);
process.exitCode = problems.length > 0 ? 1 : 0;
