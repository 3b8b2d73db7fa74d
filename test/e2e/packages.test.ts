/** The packages as people get them: what is in them, and a strict TypeScript project that installs and uses one. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Packages } from "../../scripts/package.ts";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { processesOf, sweepFile, tinyModel } from "../fixtures/harness.ts";
import { bareMachine, packages } from "../fixtures/packages.ts";
import { typeErrors } from "../fixtures/user-project.ts";

const ROOT = packageRoot();
const PNG = Buffer.from("89504e47", "hex");

/** All that may stand at the top of the npm package. */
const TOP = ["CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "bin", "configs", "dist", "docs"];
const TOP_REST = ["node_modules", "package.json", "worker"];
const OF_CONTAINERS = /^(docker|\.dockerignore|compose.*\.yaml)$/;
/** ELF, Mach-O (both orders, 32 and 64 bits, universal), PE. */
const BINARY = /^(7f454c46|cffaedfe|cefaedfe|feedfacf|feedface|cafebabe|4d5a)/;

let made: Packages;
let directory: string;
let unpacked: string;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "sparkablate-packages-"));
  made = await packages(join(directory, "release"));
  await execa("tar", ["xzf", made.tarball, "-C", directory]);
  unpacked = join(directory, "package");
  await execa("tar", ["xzf", made.sdist, "-C", directory]);
  await execa(resolveEnvironment().python, ["-m", "zipfile", "-e", made.wheel, join(directory, "wheel")]);
}, 300_000);
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** Files below a directory, relative to it, sorted. */
const filesOf = (root: string, keep: (file: string) => boolean = () => true): string[] =>
  readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)))
    .filter(keep)
    .toSorted();

const notCompiled = (file: string): boolean => !file.includes("__pycache__");

describe("the npm tarball", () => {
  it("holds what is needed and nothing else", () => {
    const top = readdirSync(unpacked).filter((name) => !OF_CONTAINERS.test(name));
    expect(top.toSorted()).toEqual([...TOP, ...TOP_REST].toSorted());
    const files = filesOf(unpacked);
    for (const needed of ["bin/sparkablate.cjs", "dist/cli/main.js", "dist/index.d.ts", "dist/index.js"])
      expect(files).toContain(needed);
    expect(files.filter((file) => file.startsWith("configs/"))).toEqual(
      filesOf(join(ROOT, "configs")).map((file) => `configs/${file}`),
    );
    // Of a person's own there is nothing: no dot files but the image's, no keys, tests, results, maps of sources that are not there.
    expect(
      files.filter((file) => /(^|\/)\.|\.(key|pem|map)$|(^|\/)test\/|^results\//.test(ours(file))),
    ).toEqual([".dockerignore"]);
    for (const file of files)
      expect(/-----BEGIN|_authToken/.test(readFileSync(join(unpacked, file), "latin1")), file).toBe(false);
  });

  it("holds the pages that help and errors name, and the references of both APIs, where every name says something", () => {
    const sources = filesOf(join(ROOT, "src"), (file) => file.endsWith(".ts"));
    const named = sources.flatMap((file) => [
      ...readFileSync(join(ROOT, "src", file), "utf8").matchAll(/docs\/[\w-]+\.md/g),
    ]);
    expect(named.length).toBeGreaterThan(10);
    for (const [page] of named) expect(filesOf(join(unpacked, "docs"))).toContain(page.slice("docs/".length));

    const [typescript, python] = ["api-typescript.md", "api-python.md"].map((page) =>
      readFileSync(join(unpacked, "docs", page), "utf8"),
    ) as [string, string];
    const exported = readFileSync(join(unpacked, "dist", "index.d.ts"), "utf8").matchAll(/\{([^}]*)\}/g);
    const names = [...exported].flatMap(([, list = ""]) => list.match(/\w+(?=,|\s*$)/g) ?? []);
    expect(names.length).toBeGreaterThan(40);
    for (const name of names) expect(typescript).toMatch(new RegExp(`^### ${name}(\\(\\))?$`, "m"));
    for (const name of ["AblationManager.applied", "load_model", "load", "find_directions", "bake"])
      expect(python).toMatch(new RegExp(`^#+ \`${name}\`$`, "m"));
    // A field that only repeats its own name says nothing.
    const fields = [...typescript.matchAll(ROW_OF_FIELD)];
    expect(fields.length).toBeGreaterThan(200);
    expect(fields.filter(([, name = "", text = ""]) => !says(text, name)).map(([row]) => row)).toEqual([]);
  });

  it("bundles the canvas that chartjs-node-canvas asks for, and no platform's binary", () => {
    // The chart packages go together: plugins must join the copy of chart.js that draws.
    expect(readdirSync(join(unpacked, "node_modules")).toSorted()).toEqual([
      "@kurkle",
      "canvas",
      "chart.js",
      "chartjs-chart-error-bars",
      "chartjs-chart-matrix",
      "chartjs-node-canvas",
      "tslib",
    ]);
    const binaries = filesOf(unpacked).filter((file) =>
      BINARY.test(readFileSync(join(unpacked, file)).subarray(0, 4).toString("hex")),
    );
    expect(binaries).toEqual([]);
    expect(statSync(made.tarball).size).toBeLessThan(10e6);
  });

  it("carries the wheel, and the worker that it runs is that wheel's", () => {
    const carried = join(unpacked, "dist", "python");
    expect(readdirSync(carried)).toHaveLength(1);
    expect(readFileSync(join(carried, readdirSync(carried)[0] ?? ""))).toEqual(readFileSync(made.wheel));
    const sources = filesOf(join(ROOT, "worker", "sparkablate"), notCompiled);
    const sdist = join(directory, `sparkablate-${version()}`);
    for (const copy of [join(unpacked, "worker"), join(directory, "wheel"), sdist]) {
      expect(filesOf(join(copy, "sparkablate"))).toEqual(sources);
      for (const file of sources)
        expect(readFileSync(join(copy, "sparkablate", file))).toEqual(
          readFileSync(join(ROOT, "worker", "sparkablate", file)),
        );
    }
    for (const file of ["constraints.txt", "pyproject.toml", "LICENSE"])
      expect(readFileSync(join(unpacked, "worker", file))).toEqual(readFileSync(join(sdist, file)));
    expect(readFileSync(join(sdist, "LICENSE"))).toEqual(readFileSync(join(ROOT, "LICENSE")));
  });

  it("has one version with the wheel, whose extras are documented", () => {
    const metadata = readFileSync(
      join(directory, "wheel", `sparkablate-${version()}.dist-info`, "METADATA"),
      "utf8",
    );
    expect(/^Version: (.*)$/m.exec(metadata)?.[1]).toBe(version());
    const extras = [...metadata.matchAll(/^Provides-Extra: (.*)$/gm)].map(([, extra]) => extra ?? "");
    expect(extras).toEqual(expect.arrayContaining(["builtin", "datasets", "ray", "server"]));
    for (const extra of extras.filter((extra) => extra !== "dev"))
      expect(metadata).toContain(`| \`${extra}\` |`);
    expect(JSON.parse(readFileSync(join(unpacked, "package.json"), "utf8")).version).toBe(version());
  });
});

const version = (): string => JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).version;

/** A line of a table in the reference: name, type, comment. */
const ROW_OF_FIELD = /^\| (?:<a id="[^"]*"><\/a> )?`([\w.]+)\??` \| .* \| ([^|]+) \|$/gm;

const SMALL = /^(a|an|the|of|in|for|that|this|its?|one|is|was|class|what|which)$/;

/** Whether a comment holds a word beside the name's own and small ones. A parameter without a comment is `-`. */
const says = (comment: string, name: string): boolean => {
  const known = (name.split(".").at(-1) ?? "").toLowerCase();
  const words = comment.toLowerCase().match(/[a-z0-9]+/g) ?? [];
  return comment.trim() === "-" || words.some((word) => !SMALL.test(word) && !known.includes(word));
};

/** What others publish may hold tests and dot files. */
const ours = (file: string): string => (file.startsWith("node_modules/") ? "" : file);

const PROGRAM = `import { Controller, loadConfig, readRun, type Row, SparkablateError } from "sparkablate";

const config = loadConfig(process.argv[2] ?? "");
const rows = new Map<string, Row>();
{
  await using controller = new Controller();
  for await (const row of controller.run(config)) rows.set(row.condition, row);
}
const { rows: stored } = readRun(config.output.dir);
const missing = stored.filter((row) => rows.get(row.condition)?.blocks !== row.blocks);
let refused = "";
try {
  loadConfig("nowhere.yaml");
} catch (error) {
  if (error instanceof SparkablateError) refused = error.code;
}
console.log(JSON.stringify({ conditions: stored.map((row) => row.condition), missing: missing.length, refused }));
`;

it("a strict TypeScript project installs it without scripts and compilers, checks its types, runs a sweep", {
  timeout: 600_000,
}, async () => {
  const project = join(directory, "project");
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module", private: true }));
  const env = { PATH: bareMachine(directory) };
  await execa("npm", ["install", "--ignore-scripts", made.tarball], { cwd: project, env });
  writeFileSync(join(project, "program.ts"), PROGRAM);
  const strictest = {
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noPropertyAccessFromIndexSignature: true,
    // Our declarations are checked too.
    skipLibCheck: false,
  };
  expect(await typeErrors(project, ["program.ts"], "typescript", strictest)).toBe("");

  const output = join(project, "out");
  const sweep = sweepFile(project, {
    model: tinyModel(),
    output,
    ablation: "sweep: heads\n  layers: [0, 2]",
  });
  const options = { cwd: project, env: { SPARKABLATE_TEST_MARK: project } };
  const { stdout } = await execa(process.execPath, ["program.ts", sweep], options);
  const { conditions, missing, refused } = JSON.parse(stdout) as Record<string, unknown>;
  expect({ missing, refused }).toEqual({ missing: 0, refused: "input_missing" });
  expect(conditions).toEqual(expect.arrayContaining(["baseline", "L0.head[0].zero", "L2.head[1].zero"]));
  expect(processesOf(project)).toEqual([]);

  // The command, there and installed for everyone (npm lays the two out differently), on the Node that it brings:
  // a heatmap needs the canvas, the font and the plugin.
  const prefix = join(directory, "prefix");
  await execa("npm", ["install", "--global", "--prefix", prefix, "--ignore-scripts", made.tarball], { env });
  for (const command of [
    join(project, "node_modules", ".bin", "sparkablate"),
    join(prefix, "bin", "sparkablate"),
  ]) {
    expect((await execa(command, ["--version"], { env })).stdout).toBe(version());
    rmSync(join(output, "plots"), { recursive: true, force: true });
    const report = await execa(command, ["report", output], { env, cwd: "/" });
    expect(report.stdout).toContain("L0.head[0].zero");
    const plots = readdirSync(join(output, "plots"));
    expect(plots).toContain("heads.png");
    for (const plot of plots) expect(readFileSync(join(output, "plots", plot)).subarray(0, 4)).toEqual(PNG);
  }
});
