/** docs/extending.md: its edits, in a copy of the checkout, are all that a new one of each needs. */
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Database from "better-sqlite3";
import { execa } from "execa";
import { expect, it } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { scratch, sweepFile, tinyModel } from "../fixtures/harness.ts";
import { fences } from "../fixtures/markdown.ts";

const PAGE = readFileSync(join(packageRoot(), "docs", "extending.md"), "utf8");
/** A block that goes to the end of a table or an interface, which the sentence before it names. */
const EDIT =
  /At\s+the\s+end\s+of\s+the\s+(?:table|interface)\s+`(\w+)`\s+of\s+`([\w/.]+)`[^:`]*:\n\n```\w+\n(.*?)^```$/gms;
const COPIED = ["bin", "configs", "package.json", "package-lock.json", "scripts", "src", "worker"];
const MOST_FILES_OF_A_SITE = 5;

/** What a build and a worker need of a checkout. */
function checkout(directory: string): string {
  const root = join(directory, "checkout");
  mkdirSync(join(root, "docs"), { recursive: true }); // generate writes pages there
  const settings = readdirSync(packageRoot()).filter((name) => /^tsconfig.*\.json$/.test(name));
  for (const name of [...COPIED, ...settings])
    cpSync(join(packageRoot(), name), join(root, name), {
      recursive: true,
      filter: (path) => !path.includes("__pycache__"),
    });
  symlinkSync(join(packageRoot(), "node_modules"), join(root, "node_modules"));
  return root;
}

/** @returns the files that were edited. */
function extend(root: string): string[] {
  const edits = [...PAGE.matchAll(EDIT)].map(([, table = "", file = "", row = ""]) => ({ table, file, row }));
  expect(edits.map(({ table }) => table)).toEqual([
    ...["ARCHITECTURES", "SITES", "SITE_ROWS", "MODES", "FUNCTIONS", "METRICS", "FUNCTIONS"],
    ...["Row", "COLUMNS", "COMMANDS"],
  ]);
  for (const { table, file, row } of edits) {
    const path = join(root, file);
    const text = readFileSync(path, "utf8");
    const literal = new RegExp(
      `^(?:export )?(?:const |interface )?${table}\\b[^\\n]*[({[]\\n.*?(?=^[)}\\]])`,
      "ms",
    );
    expect(text, `${file} has no literal table ${table}`).toMatch(literal);
    writeFileSync(
      path,
      text.replace(literal, (found) => found + row),
    );
  }
  return edits.map(({ file }) => file);
}

it("one row each: a site, mode, metric, column and command of one's own, from config to table", async () => {
  const directory = scratch();
  const root = checkout(directory);
  const files = extend(root);
  expect(new Set(files.slice(1, 3)).size).toBeLessThanOrEqual(MOST_FILES_OF_A_SITE);
  await execa(process.execPath, [join(root, "scripts", "generate.ts")], { cwd: root });
  await execa(process.execPath, [join(root, "scripts", "bootstrap.cjs"), "build"], { cwd: root });

  // The page itself, which uses all that Python has of them.
  const page = join(directory, "page.py");
  const blocks = fences(PAGE.replaceAll(EDIT, "")).filter(({ language }) => language === "python");
  writeFileSync(page, blocks.map(({ text }) => text).join("\n"));
  const env = { PYTHONPATH: join(root, "worker"), OMP_NUM_THREADS: "1" };
  await execa(resolveEnvironment().python, [page], { env });

  const model = tinyModel();
  const run = async (name: string, ablation: string) => {
    const config = sweepFile(directory, { model, output: join(directory, name), ablation });
    writeFileSync(
      config,
      readFileSync(config, "utf8").replace("max_batches", "metrics: [entropy], max_batches"),
    );
    await execa(process.execPath, [join(root, "bin", "sparkablate.cjs"), "run", "-c", config, "--quiet"]);
    const lines = readFileSync(join(directory, name, "results.jsonl"), "utf8")
      .trim()
      .split("\n");
    return lines.map((line) => JSON.parse(line) as Record<string, number | string | null>);
  };
  const hidden = await run("hidden", "sweep: hiddens\n  mode: [zero, halve]");
  const mlp = await run("mlp", "sweep: mlp");
  const nll = (rows: typeof mlp, id: string) => rows.find(({ condition }) => condition === id)?.nll;
  for (const { layer } of mlp.slice(1)) {
    // Without a bias nothing of the MLP is left.
    expect(nll(hidden, `L${layer}.hidden.zero`)).toBe(nll(mlp, `L${layer}.mlp.zero`));
    expect(nll(hidden, `L${layer}.hidden.halve`)).not.toBe(nll(hidden, `L${layer}.hidden.zero`));
  }
  for (const { delta_nll, se, t, entropy, delta_entropy } of hidden.slice(1)) {
    expect(t).toBe((delta_nll as number) / (se as number));
    expect(entropy).toBeGreaterThan(0);
    expect(delta_entropy).not.toBeNull();
  }
  const database = new Database(join(directory, "hidden", "results.sqlite"), { readonly: true });
  expect(database.prepare("SELECT t FROM result WHERE layer = 0 AND mode = 'zero'").pluck().get()).toBe(
    hidden.find(({ condition }) => condition === "L0.hidden.zero")?.t,
  );
  database.close();
  const said = await execa(process.execPath, [join(root, "bin", "sparkablate.cjs"), "hello"], { all: true });
  expect(said.all).toContain("hello");
});
