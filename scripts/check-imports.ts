/**
 * Import directions: a room imports rooms that stand lower, never one beside or above it (docs/dev/house.md says what
 * each is for), types included; a few packages are known to one file each; no file is in a circle of imports.
 */
import { globSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";

/** The lowest first. Rooms of one line know nothing of each other; names that are joined by + are one room. */
const TYPESCRIPT = [
  ["errors.ts"],
  ["digest.ts", "files.ts", "printable.ts", "suggest.ts", "protocol/", "statistics/"],
  ["conditions/"],
  ["config/"],
  ["samples/"],
  ["plan/"],
  ["results/"],
  ["events.ts", "store/"],
  ["environment/"],
  ["node-version.ts", "version.ts"],
  ["link/"],
  ["directions/", "report/"],
  ["run/"],
  ["prune/"],
  ["controller.ts"],
  ["index.ts", "cli/"],
];
const PYTHON = [
  ["printable.py", "progress.py", "version.py", "wording.py"],
  ["errors.py"],
  ["arguments.py", "catalog.py", "checksums.py"],
  ["drawing.py", "tokens.py"],
  ["results.py"],
  ["anatomy/"],
  ["loading/", "text/"],
  // A spec is checked against what the modes and kinds can do.
  ["edits/+specs.py"],
  ["condition_ids.py"],
  ["manager.py"],
  ["measure/"],
  ["proofs/"],
  ["generation/", "directions/", "bake/"],
  ["engines/"],
  ["server/", "study/"],
  // For users; nobody inside imports them.
  ["__init__.py", "model.py", "builtin.py"],
  // Names of 0.1.0.
  ["calibration.py", "direction_scores.py", "fingerprints.py"],
];

interface Room {
  readonly name: string;
  readonly height: number;
}

function roomsOf(root: string, heights: readonly (readonly string[])[]): [path: string, room: Room][] {
  return heights.flatMap((names, height) =>
    names.flatMap((name) => name.split("+").map((part): [string, Room] => [root + part, { name, height }])),
  );
}

const ROOMS = [...roomsOf("src/", TYPESCRIPT), ...roomsOf("worker/sparkablate/", PYTHON)];

const roomOf = (file: string): Room | undefined =>
  ROOMS.find(([path]) => (path.endsWith("/") ? file.startsWith(path) : file === path))?.[1];

/** Rooms that may use less of ours than stands lower. */
const ONLY: readonly (readonly [of: RegExp, may: RegExp, why: string])[] = [
  [
    /^src\/report\//,
    /^src\/((report|store|statistics|results|protocol|conditions)\/|(errors|files|printable|version)\.ts$)/,
    "a report reads run directories through the store, and needs no worker",
  ],
  [
    /^src\/environment\//,
    /^src\/(environment\/|store\/lock\.ts$|(errors|files|digest)\.ts$)/,
    "set-up needs no worker",
  ],
  [
    /^worker\/sparkablate\/\w+\.py$/,
    /^worker\/sparkablate\/(?!engines\/|server\/)/,
    "notebooks use the engine without the server",
  ],
];

/** Packages that one place of ours knows. */
const KNOWN_TO: readonly (readonly [what: RegExp, by: RegExp, why: string])[] = [
  [/^zeromq$/, /^src\/link\/channel\.ts$/, "one file knows the socket"],
  [/^better-sqlite3$/, /^src\/store\//, "one room knows the database"],
  [/^zmq/, /^worker\/sparkablate\/server\/loop\.py$/, "one file knows the socket"],
];

/** Types too: what depends on a type is read together with it. */
function importsOfTypeScript(file: string, text: string): string[] {
  const found = text.matchAll(/^(?:import|export)\s[^;]*?\sfrom\s+"([^"]+)"|^import\s+"([^"]+)"/gm);
  return [...found].map(([, from, bare]) => {
    const name = from ?? bare ?? "";
    return name.startsWith(".") ? normalize(join(dirname(file), name)) : name;
  });
}

/** Imports inside functions count as well: they are how a cycle is hidden. Docstrings hold examples, not imports. */
function importsOfPython(file: string, text: string): string[] {
  const inPackage = new Set(files);
  const found = text
    .replaceAll(/"""[\s\S]*?"""/g, "")
    .matchAll(/^\s*(?:from\s+(\.*[\w.]*)\s+import\s+(\([^)]*\)|[^\n#]+)|import\s+([\w.]+))/gm);
  return [...found].flatMap(([, from, names = "", plain]) => {
    const module = from ?? plain ?? "";
    const base = pythonModule(file, module);
    if (base === undefined) return [module];
    const members = names.replaceAll(/[()]/g, "").split(",");
    const submodules = members
      .map((member) => `${base}/${member.trim().split(/\s/)[0]}.py`)
      .filter((path) => inPackage.has(path));
    const own = [`${base}.py`, `${base}/__init__.py`].filter((path) => inPackage.has(path));
    return submodules.length > 0 ? submodules : own;
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
const imports = new Map<string, string[]>(
  files.map((file) => {
    const text = readFileSync(join(root, file), "utf8");
    return [file, file.endsWith(".py") ? importsOfPython(file, text) : importsOfTypeScript(file, text)];
  }),
);

const problems: string[] = [];
for (const [file, found] of imports) {
  const room = roomOf(file);
  if (room === undefined) problems.push(`${file} is in no room: scripts/check-imports.ts lists them`);
  for (const what of found) {
    for (const [known, by, why] of KNOWN_TO)
      if (known.test(what) && !by.test(file)) problems.push(`${file} imports ${what}: ${why}`);
    for (const [of, may, why] of ONLY)
      if (of.test(file) && /^(src|worker)\//.test(what) && !may.test(what))
        problems.push(`${file} imports ${what}: ${why}`);
    const other = roomOf(what);
    if (room === undefined || other === undefined || other.name === room.name) continue;
    if (other.height >= room.height)
      problems.push(
        `${file} imports ${what}: ${other.name} stands ${other.height === room.height ? "beside" : "above"} ${room.name}`,
      );
  }
}

const finished = new Set<string>();
function findCycle(file: string, path: readonly string[]): void {
  if (path.includes(file)) {
    problems.push(`circle: ${[...path.slice(path.indexOf(file)), file].join(" → ")}`);
    return;
  }
  if (finished.has(file)) return;
  for (const what of imports.get(file) ?? []) findCycle(what, [...path, file]);
  finished.add(file);
}
for (const file of files) findCycle(file, []);

for (const problem of problems) console.error(problem);
console.log(`import directions: ${files.length} files, ${problems.length} problems`);
process.exitCode = problems.length > 0 ? 1 : 0;
