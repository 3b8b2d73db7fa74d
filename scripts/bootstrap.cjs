"use strict";
// What `npm run quickstart`, `npm test`, `npm run check` … do in a checkout: first whatever is missing (npm ci,
// tsc, the Python environment), then the task. Node's own modules only, since nothing is installed yet; npm runs
// no pre… and post… scripts here (.npmrc).
const { execFileSync } = require("node:child_process");
const { createHash } = require("node:crypto");
const {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { commandLine, findNode, refuse, run, runHere } = require("../bin/sparkablate.cjs");

const ROOT = join(__dirname, "..");
const TASKS = {
  quickstart,
  setup,
  build,
  generate,
  reference,
  test,
  "test:faults": testFaults,
  "test:full": testFull,
  "test:gguf": testGguf,
  "test:container": testContainer,
  check,
  package: makePackages,
  "release:check": releaseCheck,
  bench,
};

/** Runs a program in the checkout; resolves with its exit code. */
const inRoot = (program, args, env = {}) =>
  run(program, args, { cwd: ROOT, env: { ...process.env, ...env } });
const node = (...args) => inRoot(findNode(), args);
const modules = (...path) => join(ROOT, "node_modules", ...path);

/** Ends the task with the code of a step that failed. */
async function must(step) {
  const code = await step;
  if (code !== 0) process.exit(code);
}

/** `npm ci`, unless what npm noted in node_modules is what the lock file asks for. */
async function install() {
  if (existsSync(modules(".package-lock.json")) && isInstalled()) return;
  console.error("npm ci: installing the packages of package-lock.json");
  const args = ["ci", "--include=dev", "--no-fund", "--no-audit"];
  const npm = process.env.npm_execpath;
  await must(npm ? inRoot(process.execPath, [npm, ...args]) : inRoot("npm", args));
}

function isInstalled() {
  const packages = (file) => JSON.parse(readFileSync(file, "utf8")).packages;
  const installed = packages(modules(".package-lock.json"));
  return Object.entries(packages(join(ROOT, "package-lock.json"))).every(([path, wanted]) => {
    const found = installed[path];
    // An optional package of another platform is not there.
    return path === "" || (found ? found.integrity === wanted.integrity : wanted.optional === true);
  });
}

/** tsc and the bundle of the command line, unless dist/ was made from these very sources. */
async function compile() {
  if (findNode() === undefined) {
    refuse("Node 24 is needed, and none is bundled for this platform: install it from nodejs.org", 3);
  }
  const stamp = join(ROOT, "dist", ".sources-sha256");
  const sources = digest([
    "src",
    "scripts/bundle.ts",
    "tsconfig.json",
    "tsconfig.build.json",
    "package-lock.json",
  ]);
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === sources) return;
  console.error("tsc: compiling src/ to dist/");
  rmSync(join(ROOT, "dist"), { recursive: true, force: true });
  await must(node(modules("typescript-7", "bin", "tsc"), "-p", "tsconfig.build.json"));
  await must(node(join(ROOT, "scripts", "bundle.ts")));
  writeFileSync(stamp, sources);
}

/** sha256 over the names and contents of files and directories. */
function digest(paths) {
  const hash = createHash("sha256");
  const add = (path) => {
    const full = join(ROOT, path);
    if (statSync(full).isDirectory()) for (const name of readdirSync(full).sort()) add(join(path, name));
    else hash.update(path).update(readFileSync(full));
  };
  for (const path of paths) add(path);
  return hash.digest("hex");
}

const sparkablate = (...args) => runHere(...commandLine(args), { cwd: ROOT });

/** The environment with the tools of the checks in it; returns its interpreter. */
async function python() {
  await must(sparkablate("setup", "--dev"));
  const found = execFileSync(findNode(), [join(ROOT, "bin", "sparkablate.cjs"), "setup", "--json", "-q"]);
  return JSON.parse(found.toString()).python;
}

const withWorker = () => ({ PYTHONPATH: join(ROOT, "worker") });

async function quickstart(args) {
  await install();
  await compile();
  return sparkablate("quickstart", ...args);
}

async function setup(args) {
  await install();
  await compile();
  return sparkablate("setup", ...args);
}

async function build() {
  await install();
  await compile();
  return 0;
}

async function generate(args) {
  await install();
  await compile();
  return generateFiles(await python(), args);
}

/** From the TypeScript sources, then from the Python package. */
async function generateFiles(interpreter, args) {
  const first = await node("scripts/generate.ts", ...args);
  const second = await inRoot(interpreter, ["test/python/generated_pages.py", ...args], withWorker());
  return first || second;
}

/** The pages of both APIs, into docs/: they are made for a release and not kept. */
async function reference(args) {
  await install();
  await compile();
  return node("scripts/references.ts", "--python", await python(), ...args);
}

async function bench(args) {
  await install();
  await compile();
  return inRoot(await python(), ["test/bench/bench.py", ...args], withWorker());
}

/** Two processes, each at one thread; a file stays in one of them, whose tests share models. */
const SHARED_OUT = ["--numprocesses=2", "--dist=loadfile"];

/** vitest, then pytest; file arguments choose among them (*.py are pytest's). */
async function test(files) {
  const flag = files.find((file) => file.startsWith("-"));
  if (flag) refuse(`${flag}: 'npm test -- FILE…' takes test files and nothing else`, 2);
  await install();
  await compile();
  const interpreter = await python();
  const reports = mkdtempSync(join(tmpdir(), "sparkablate-reports-"));
  const ofPytest = files.filter((file) => /\.py(::|$)/.test(file));
  const ofVitest = files.filter((file) => !ofPytest.includes(file));
  const total = { passed: 0, failed: 0, skipped: 0 };
  const add = (runner, code, counts) => {
    // A runner that fails without a failed test broke down itself, or found nothing to run.
    const broken = code !== 0 && counts.failed === 0 ? 1 : 0;
    const note = broken ? ` (the runner itself ended with exit code ${code})` : "";
    console.log(`${runner}: ${summary({ ...counts, failed: counts.failed + broken })}${note}`);
    total.passed += counts.passed;
    total.failed += counts.failed + broken;
    total.skipped += counts.skipped;
  };
  if (ofVitest.length > 0 || files.length === 0) {
    const report = join(reports, "vitest.json");
    const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
    add(
      "vitest",
      await node(modules("vitest", "vitest.mjs"), "run", "--project=ci", ...reporters, ...ofVitest),
      countVitest(report),
    );
  }
  if (ofPytest.length > 0 || files.length === 0) {
    const report = join(reports, "pytest.xml");
    const where = ofPytest.length > 0 ? ofPytest : ["test/python"];
    const args = [
      "-m",
      "pytest",
      "-c",
      "worker/pyproject.toml",
      "--rootdir",
      ".",
      "-q",
      "-rs",
      ...(ofPytest.length > 0 ? [] : SHARED_OUT),
      `--junitxml=${report}`,
    ];
    add("pytest", await inRoot(interpreter, [...args, ...where], withWorker()), countPytest(report));
  }
  rmSync(reports, { recursive: true });
  console.log(summary(total));
  return total.failed > 0 ? 1 : 0;
}

/** Kills in number: `--rounds N` (20) of each kind, and one at every step that keeps something; `--seed S` repeats. */
async function testFaults(args) {
  const usage = "usage: npm run test:faults -- [--rounds N] [--seed S] [test/faults/FILE…]";
  const env = { ROUNDS: "20", SEED: String(Date.now() % 1e6) };
  const files = [];
  for (let at = 0; at < args.length; at++) {
    if (!args[at].startsWith("-")) {
      files.push(args[at]);
      continue;
    }
    const [flag, value = args[++at]] = args[at].split("=");
    if (!["--rounds", "--seed"].includes(flag) || !/^\d+$/.test(value ?? "")) refuse(usage, 2);
    env[flag.slice(2).toUpperCase()] = value;
  }
  await install();
  await compile();
  await python();
  const again = `npm run test:faults -- --rounds ${env.ROUNDS} --seed ${env.SEED}`;
  console.error(again);
  const chosen = files.length > 0 ? files : ["test/faults"];
  const code = await inRoot(
    findNode(),
    [modules("vitest", "vitest.mjs"), "run", "--project=ci", ...chosen],
    env,
  );
  if (code !== 0) console.error(`the same again: ${again}`);
  return code;
}

/** What takes SmolLM2 and many minutes; vitest's own arguments choose among it. */
async function testFull(args) {
  await install();
  await compile();
  await python();
  return byHand("test/full", args);
}

/** The worker in a container, on an engine and a base image that it makes. */
async function testContainer(args) {
  await install();
  await compile();
  await python();
  return byHand("test/container", args);
}

/** All tests of a directory, or the files that are named: two names would be two filters, and run both. */
const byHand = (directory, args) =>
  node(
    ...[modules("vitest", "vitest.mjs"), "run", "--project=full", "--maxWorkers=1"],
    ...(args.some((arg) => !arg.startsWith("-")) ? args : [directory, ...args]),
  );

/** A baked checkpoint through llama.cpp, which is built for it once. */
async function testGguf(args) {
  await install();
  await compile();
  return inRoot(await python(), ["test/gguf/gguf.py", ...args], withWorker());
}

const summary = ({ passed, failed, skipped }) =>
  `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;

/** A test file that cannot be imported has no failed test: it counts as one. */
function countVitest(file) {
  if (!existsSync(file)) return { passed: 0, failed: 0, skipped: 0 };
  const report = JSON.parse(readFileSync(file, "utf8"));
  const unreadable = report.testResults.filter(
    ({ status, assertionResults }) =>
      status === "failed" && !assertionResults.some((one) => one.status === "failed"),
  );
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests + unreadable.length,
    skipped: report.numPendingTests + report.numTodoTests,
  };
}

function countPytest(file) {
  if (!existsSync(file)) return { passed: 0, failed: 0, skipped: 0 };
  const suite = /<testsuite [^>]*>/.exec(readFileSync(file, "utf8"))?.[0] ?? "";
  const count = (name) => Number(new RegExp(` ${name}="(\\d+)"`).exec(suite)?.[1] ?? 0);
  const failed = count("failures") + count("errors");
  return { passed: count("tests") - failed - count("skipped"), failed, skipped: count("skipped") };
}

/** Everything is checked, then what failed is named. */
async function check() {
  await install();
  await compile();
  const interpreter = await python();
  const sources = ["worker", "test"];
  const tool = (...args) => inRoot(interpreter, ["-m", ...args], withWorker());
  const steps = {
    "biome (format, lint)": () => node(modules("@biomejs", "biome", "bin", "biome"), "ci", "."),
    "tsc (types)": () => node(modules("typescript-7", "bin", "tsc"), "--noEmit"),
    "knip (dead code)": () => node(modules("knip", "bin", "knip.js")),
    "generated files": () => generateFiles(interpreter, ["--check"]),
    "API references": () => node("scripts/references.ts", "--python", interpreter, "--check"),
    "import directions": () => node("scripts/check-imports.ts"),
    "ruff format": () => tool("ruff", "format", "--config", "worker/pyproject.toml", "--check", ...sources),
    "ruff check": () => tool("ruff", "check", "--config", "worker/pyproject.toml", ...sources),
    "mypy (types)": () => tool("mypy", "--config-file", "worker/pyproject.toml", "worker/sparkablate"),
  };
  const failed = [];
  for (const [name, step] of Object.entries(steps)) {
    console.log(`--- ${name}`);
    if ((await step()) !== 0) failed.push(name);
  }
  const passed = Object.keys(steps).length - failed.length;
  console.log(
    failed.length > 0 ? `check: failed: ${failed.join(", ")}` : `check: all ${passed} steps passed`,
  );
  return failed.length > 0 ? 1 : 0;
}

/** The npm tarball, the wheel and the sdist, into release/. */
async function makePackages(args) {
  await install();
  await compile();
  return node("scripts/package.ts", "--python", await python(), ...args);
}

/** All that a release needs but publishing: the checks, then packages installed in empty places. */
async function releaseCheck(args) {
  await must(check());
  return node(modules("vitest", "vitest.mjs"), "run", "--project=release", "--maxWorkers=1", ...args);
}

async function main() {
  const [task, ...args] = process.argv.slice(2);
  if (!Object.hasOwn(TASKS, task ?? ""))
    refuse(`usage: node scripts/bootstrap.cjs ${Object.keys(TASKS).join("|")}`, 2);
  if (process.platform === "win32") refuse("Windows is not supported natively: run it inside WSL 2.", 3);
  if (Number(process.versions.node.split(".")[0]) < 20)
    refuse(`Node 20 or newer is needed; this is ${process.version}`, 3);
  process.exit(await TASKS[task](args));
}

main();
