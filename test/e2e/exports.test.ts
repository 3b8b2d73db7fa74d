/** What the package exports is what this list says: nothing by accident, in types or in values. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { scratch } from "../fixtures/harness.ts";
import { fences } from "../fixtures/markdown.ts";
import { linkPackage, typeErrors } from "../fixtures/user-project.ts";

const VALUES = [
  "Controller",
  "SparkablateError",
  "defineConfig",
  "loadConfig",
  "parseConfig",
  "readPrompts",
  "readRun",
];
const TYPES = [
  "AblationInput",
  "Agreement",
  "AnswerTokens",
  "BakeCard",
  "BakeDtype",
  "BakeOptions",
  "Baked",
  "ChosenDirection",
  "CompareOptions",
  "ComparedPrompt",
  "ComparedText",
  "Compensate",
  "Comparison",
  "Condition",
  "ConfigInput",
  "ConfigOptions",
  "ControllerOptions",
  "Correction",
  "Direction",
  "DirectionOptions",
  "DirectionTable",
  "Disagreement",
  "ErrorCode",
  "FoundDirection",
  "Interaction",
  "Interval",
  "Intervention",
  "LoadedModel",
  "MetricEstimate",
  "ModelConfig",
  "ModelMap",
  "ModelSize",
  "NumericFloor",
  "Numerics",
  "OnEvent",
  "Passes",
  "PathStep",
  "PromptSet",
  "PruneOutcome",
  "PruneOptions",
  "PruneSettings",
  "PruneTarget",
  "Pruned",
  "RacePlan",
  "Row",
  "Run",
  "RunConfig",
  "RunEvent",
  "RunFacts",
  "RunOptions",
  "ScoreEstimate",
  "ScoredCandidate",
  "Scores",
  "SideFacts",
  "StatisticsSettings",
  "Status",
  "StoredRun",
  "SweepPlan",
  "TargetInput",
  "TaskFacts",
  "TextEffect",
  "TextLevel",
  "Timing",
  "Unedited",
  "Unit",
  "WireError",
];

const INDEX = join(packageRoot(), "dist", "index");

it("dist/index.d.ts exports these names", () => {
  const text = readFileSync(`${INDEX}.d.ts`, "utf8").replaceAll(/\/\*[\s\S]*?\*\//g, "");
  const statement = /^export (type )?\{([^}]*)\} from "[^"]+";$/gm;
  // Nothing but lists of names, behind what refuses an old Node: `export *` or a declaration would escape this test.
  expect(text.replaceAll(statement, "").trim()).toBe('import "./node-version.ts";');
  const names = [...text.matchAll(statement)].flatMap(([, all, list = ""]) =>
    list
      .split(",")
      .map((name) => name.trim())
      .filter((name) => name !== "")
      .map((name) => ({ name: name.replace(/^type /, ""), isType: !!all || name.startsWith("type ") })),
  );
  const of = (isType: boolean) => names.filter((one) => one.isType === isType).map(({ name }) => name);
  expect(of(true).toSorted()).toEqual(TYPES.toSorted());
  expect(of(false).toSorted()).toEqual(VALUES.toSorted());
});

it("dist/index.js exports these values", async () => {
  expect(Object.keys(await import(`${INDEX}.js`)).toSorted()).toEqual(VALUES.toSorted());
});

it("no other file of the package can be imported", async () => {
  // By its own name, as others would.
  const script = 'await import("sparkablate/dist/run.js").catch(({ code }) => console.log(code))';
  const tried = await execa(process.execPath, ["--input-type=module", "-e", script], { cwd: packageRoot() });
  expect(tried.stdout).toBe("ERR_PACKAGE_PATH_NOT_EXPORTED");
});

/** What every example may take for granted. */
const PRELUDE = `
import { writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { Controller, loadConfig, parseConfig, readPrompts, readRun, type RunConfig } from "sparkablate";
declare const controller: Controller;
declare const config: RunConfig;
`;

it("every method of Controller has an example, and the examples type-check under strict", {
  timeout: 120_000,
}, async () => {
  const declared = readFileSync(join(packageRoot(), "dist", "controller.d.ts"), "utf8");
  const comments = [...declared.matchAll(/\/\*\*[\s\S]*?\*\/\s*(?:export declare )?(?:class )?(\w+)/g)];
  const examples = comments.flatMap(([comment, name = ""]) =>
    fences(comment.replaceAll(/^ *\* ?/gm, "")).map(({ text }) => ({ name, text })),
  );
  expect(examples.map(({ name }) => name).toSorted()).toEqual(
    [
      "Controller",
      "bake",
      "compare",
      "direction",
      "inspect",
      "keepTokens",
      "load",
      "prune",
      "run",
    ].toSorted(),
  );
  const directory = scratch();
  linkPackage(directory);
  // In a block of its own: an example may declare a controller itself.
  for (const { name, text } of examples)
    writeFileSync(join(directory, `${name}.mts`), `${PRELUDE}{\n${text}}\n`);
  const files = examples.map(({ name }) => `${name}.mts`);
  expect(await typeErrors(directory, files, "typescript-7")).toBe("");
});
