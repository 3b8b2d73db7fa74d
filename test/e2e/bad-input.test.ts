/**
 * Bad input of every kind, typed into the real command line: none of it is called our bug, each gets the code of its true
 * cause, and what others wrote steers no terminal. Nothing here needs Python: SPARKABLATE_HOME is empty.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, it } from "vitest";
import { LAUNCHER } from "../fixtures/harness.ts";

/** What a terminal would obey or a reader not see; line breaks are ours, and looked at case by case. */
const STEERING = /(?!\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;
const ESCAPES = "\u001b[31m\u202e\u009b2J\u200b";
const ESCAPED = "\\x1b[31m\\u{202e}\\x9b2J\\u{200b}";
/** Commands that run beside each other. */
const AT_ONCE = 4;

interface Case {
  readonly args: readonly string[];
  readonly code: string;
  /** In the message. */
  readonly says?: string | RegExp;
  readonly exit?: number;
  readonly env?: Readonly<Record<string, string>>;
}

/** What commander refuses has no code. */
const COMMANDER = "";

const run = (...args: string[]): string[] => ["run", "-c", "good.yaml", "--no-plots", ...args];
const set = (assignment: string): string[] => run("--set", assignment);
const report = (...args: string[]): string[] => ["report", ...args];
const compare = (...args: string[]): string[] => ["compare", "-m", "model", "--prompt", "x", ...args];

const CASES: readonly Case[] = [
  // Names that nobody should be able to put on a terminal.
  { args: [`bad${ESCAPES}`], code: COMMANDER, says: `'bad${ESCAPED}'` },
  { args: report(`--bad${ESCAPES}`), code: COMMANDER, says: ESCAPED },
  { args: report(ESCAPES), code: "input_missing", says: `${ESCAPED} does not exist` },
  { args: report("two\nlines"), code: "input_missing", says: "two\\nlines does not exist" },
  { args: ["run", "-c", ESCAPES], code: "input_missing", says: ESCAPED },
  { args: ["run", "-c", "escapes.yaml"], code: "config_invalid", says: `key${ESCAPED}: is not a key` },
  { args: set(`eval.${ESCAPES}=1`), code: "config_invalid", says: ESCAPED },
  { args: set(`model.name=${ESCAPES}`), code: "config_invalid" },
  { args: set(`ablation.sweep=\u202e`), code: "config_invalid", says: "\\u{202e}" },
  { args: compare("--condition", `{kind: "${ESCAPES}"}`), code: "config_invalid" },
  { args: ["completion"], env: { SHELL: `/bin/${ESCAPES}` }, code: "usage", says: ESCAPED },
  {
    args: set("eval.seq_len=4"),
    env: { SPARKABLATE_HOME: ESCAPES },
    code: "environment_missing",
    says: ESCAPED,
  },
  // Configs that are none.
  { args: ["run", "-c", ""], code: "input_missing" },
  { args: ["run", "-c", "nope.yaml"], code: "input_missing" },
  { args: ["run", "-c", "directory"], code: "input_missing" },
  { args: ["run", "-c", "good.yaml/x"], code: "input_missing" },
  { args: ["run", "-c", "x".repeat(300)], code: "input_missing" },
  { args: ["run", "-c", "loop"], code: "input_missing" },
  { args: ["run", "-c", "/dev/null"], code: "input_missing", says: "it is a device" },
  { args: ["run", "-c", "binary.yaml"], code: "config_invalid", says: "is not" },
  { args: ["run", "-c", "deep.yaml"], code: "config_invalid", says: "is nested too deeply" },
  { args: ["run", "-c", "bomb.yaml"], code: "config_invalid", says: "aliases stand for too much" },
  { args: ["run", "-c", "two.yaml"], code: "config_invalid", says: "begins a second document" },
  { args: ["run", "-c", "tag.yaml"], code: "config_invalid", says: "Unresolved tag" },
  { args: ["run", "-c", "merge.yaml"], code: "config_invalid", says: "<<: is not a key" },
  // Values that fit no key.
  { args: set("__proto__.x=1"), code: "config_invalid" },
  { args: set("model.constructor.prototype.x=1"), code: "config_invalid" },
  { args: set("toString=1"), code: "config_invalid" },
  { args: set("ablation.targets[999999999].layer=1"), code: "config_invalid", says: "has no entry" },
  { args: set("eval.seq_len=.nan"), code: "config_invalid", says: "NaN does not fit" },
  { args: set("eval.seq_len=1e400"), code: "config_invalid" },
  { args: set("model.name=directory"), code: "model_not_found", says: "has no config.json" },
  // Places that hold no run.
  { args: set("output.dir=/proc/x"), code: "input_missing", says: "/proc/x" },
  { args: set("output.dir=/dev/null/x"), code: "config_invalid", says: "/dev/null is a file" },
  { args: set("output.dir=loop/x"), code: "config_invalid", says: "loop" },
  { args: set(`output.dir=${"x".repeat(300)}`), code: "config_invalid" },
  { args: report("good.yaml"), code: "input_missing", says: "is not even a directory" },
  { args: report("good.yaml", "--watch"), code: "input_missing", says: "is not even a directory" },
  { args: report("", "--watch"), code: "usage" },
  { args: report("directry"), code: "input_missing", says: 'did you mean "directory"?' },
  { args: report("directory"), code: "input_missing", says: "has no results.sqlite" },
  { args: report("loop"), code: "input_missing", says: "loop" },
  { args: report(""), code: "usage" },
  { args: report("x".repeat(5000)), code: "input_missing", says: "ENAMETOOLONG" },
  { args: report("garbage"), code: "store_corrupt", exit: 3 },
  { args: report("directory", "--top", "0"), code: COMMANDER, says: "whole number from 1 up" },
  { args: report("directory", "--format", "__proto__"), code: COMMANDER, says: "Allowed choices" },
  { args: report("directory", "--port", "1"), code: "usage", says: "--port needs --watch" },
  // Edits that are none.
  { args: compare("--layer", "1"), code: "usage", says: "--layer needs --kind" },
  { args: compare("--condition", "[".repeat(5000)), code: "usage" },
  { args: compare("--condition", "&a [*a]"), code: "usage" },
  { args: compare("--condition", "{kind: mlp, layer: 1e99}"), code: "config_invalid" },
  // Directories that cannot be made.
  {
    args: ["keys", "init", "--keys", "/proc/x"],
    code: "input_missing",
    says: "no directory can be made there",
  },
  { args: ["keys", "init", "--keys", "good.yaml"], code: "input_missing", says: "a file" },
  { args: ["keys", "init", "--keys", "good.yaml/x"], code: "input_missing", says: "a file" },
  {
    args: ["setup", "-q"],
    env: { SPARKABLATE_HOME: "good.yaml" },
    code: "input_missing",
    says: "there is a file of this name",
  },
  { args: ["setup", "-q"], env: { SPARKABLATE_HOME: "/proc/x" }, code: "input_missing", says: "takes none" },
  { args: ["worker"], env: { SPARKABLATE_HOME: "good.yaml" }, code: "input_missing", says: "is a file" },
  // An environment whose record is torn.
  { args: run(), env: { SPARKABLATE_HOME: "torn" }, code: "environment_missing", exit: 3 },
];

let place: string;
beforeAll(() => {
  place = mkdtempSync(join(tmpdir(), "sparkablate-bad-input-"));
  const put = (name: string, text: string | Buffer): void => writeFileSync(join(place, name), text);
  for (const name of ["directory", "model", "home", "garbage", "torn"]) mkdirSync(join(place, name));
  const good = `model: {name: ./model, dtype: float32}
eval: {dataset: shipped:corpora/northanger-abbey.txt, seq_len: 32, max_batches: 1}
ablation: {sweep: layers}
output: {dir: out}
`;
  put("good.yaml", good);
  put("model/config.json", "{}");
  put("escapes.yaml", `${good}"key${ESCAPES.replace("\u001b", "\\e").replace("\u009b", "\\x9b")}": 1\n`);
  put("binary.yaml", Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
  put("deep.yaml", `a: ${"[".repeat(20_000)}${"]".repeat(20_000)}\n`);
  put("two.yaml", "model: {name: x}\n---\nmodel: {name: y}\n");
  put("tag.yaml", "model: !!python/object/apply:os.system ['id']\n");
  put("merge.yaml", `base: &b {name: x}\nmodel:\n  <<: *b\n`);
  const letters = [..."abcdefghi"];
  put(
    "bomb.yaml",
    letters
      .map((name, at) => `${name}: &${name} [${Array(9).fill(at === 0 ? "x" : `*${letters[at - 1]}`)}]\n`)
      .join(""),
  );
  put("garbage/results.sqlite", "garbage ".repeat(1000));
  symlinkSync("loop", join(place, "loop"));
});
afterAll(() => rmSync(place, { recursive: true, force: true }));

const type = (args: readonly string[], env: Readonly<Record<string, string>> = {}) =>
  execa(process.execPath, [LAUNCHER, ...args], {
    cwd: place,
    env: { SPARKABLATE_HOME: "home", ...env },
    reject: false,
    stdin: "ignore",
    timeout: 120_000,
  });

it("has the code of its cause, and is never our bug", { timeout: 600_000 }, async () => {
  const wrong: string[] = [];
  const left = [...CASES];
  const check = async ({ args, env, code, says, exit = code === "environment_missing" ? 3 : 2 }: Case) => {
    const { exitCode, stdout, stderr } = await type(args, env);
    const start = code === COMMANDER ? "error: " : `error (${code}): `;
    const fits = typeof says === "string" ? stderr.includes(says) : (says?.test(stderr) ?? true);
    if (exitCode === exit && stderr.startsWith(start) && fits && !/^ {4}at /m.test(stderr) && stdout === "") {
      if (!STEERING.test(stderr)) return;
    }
    wrong.push(`${JSON.stringify(args)} ${JSON.stringify(env ?? {})}: exit ${exitCode}\n${stdout}${stderr}`);
  };
  const worker = async (): Promise<void> => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) await check(next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  expect(wrong).toEqual([]);
});

it("says so where the directory one stands in is gone, and where stdout takes nothing", {
  timeout: 240_000,
}, () => {
  const shell = (line: string): string =>
    execFileSync("bash", ["-c", `{ ${line}; } 2>&1`, LAUNCHER, process.execPath], {
      cwd: place,
      env: { ...process.env, SPARKABLATE_HOME: "home" },
    }).toString();
  const gone = shell(
    'mkdir gone; cd gone; rmdir ../gone; "$1" "$0" bake -m x --kind mlp --layer 0 --out y; echo "exit $?"',
  );
  expect(gone).toContain("error (input_missing): your working directory was removed");
  expect(gone).toContain("exit 2");
  const full = shell('"$1" "$0" completion bash > /dev/full; echo "exit $?"');
  expect(full).toContain("error (disk_full): no space left");
  expect(full).toContain("exit 3");
  expect(shell('"$1" "$0" completion bash | true')).toBe("");
});
