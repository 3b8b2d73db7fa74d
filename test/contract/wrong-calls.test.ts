/**
 * Wrong calls of the command line, each with its answer, to the byte: `wrong-calls.txt`. None is called our bug,
 * each says what to do. After a change that is meant, `GOLDEN=new npm test -- test/contract/wrong-calls.test.ts` writes
 * the file anew; read the answers aloud.
 */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, vi } from "vitest";
import { reportFailure, typedCommand } from "../../src/cli/failure.ts";
import { program } from "../../src/cli/program.ts";

const FILE = join(import.meta.dirname, "wrong-calls.txt");
const RUNS = join(import.meta.dirname, "..", "fixtures", "runs-0.1.0", "runs");

const look = ["-m", "model", "--sweep", "mlp", "--text", "text.txt"];
const run = (...more: string[]): string[] => ["run", ...look, ...more];
const compare = (...more: string[]): string[] => ["compare", "-m", "model", "--prompt", "x", ...more];
const prune = (...more: string[]): string[] => [
  "prune",
  "-m",
  "model",
  "--text",
  "text.txt",
  "--out",
  "pruned",
  ...more,
];
const bake = (...more: string[]): string[] => ["bake", "-m", "model", "--out", "baked", ...more];

const CALLS: readonly string[][] = [
  // Names.
  ["rnu"],
  ["--jsn"],
  ["run", "--modle", "model"],
  ["report", "heads", "--sort-by", "q"],
  ["help", "nothing"],
  ["run", "extra", ...look],
  // What to run.
  ["run"],
  ["run", "-m", "model"],
  ["run", "--sweep", "mlp"],
  ["run", "-c", "nope.yaml"],
  ["run", "-c", "good.yml"],
  ["run", "-c", "good.yaml", "-m", "model"],
  ["run", "-c", "good.yaml", "--layers", "1"],
  ["run", "model"],
  ["run", "-m", "model", "--sweep", "head"],
  ["run", "-m", "modle", "--sweep", "mlp"],
  ["run", "-m", "./modle", "--sweep", "mlp"],
  ["run", "-m", "builtin:smollm", "--sweep", "mlp"],
  ["run", "-m", "text.txt", "--sweep", "mlp"],
  ["run", "-m", "empty", "--sweep", "mlp"],
  ["run", "-m", "model", "--sweep", "mlp", "--text", "txt.text"],
  ["run", "-m", "model", "--sweep", "mlp", "--text", "empty"],
  ["run", "-m", "model", "--sweep", "mlp", "--task", "text.txt"],
  run("--task", "task.jsonl"),
  run("--layers", "0-3"),
  run("--layers", "3..1"),
  run("--layers", "0..-1"),
  run("--layers", "one"),
  run("--layers", "99", "--dry-run"),
  run("--mode", "zro"),
  run("--mode", "zero,zero"),
  run("--mode", "patch"),
  run("--mode", "resample,", "--dry-run"),
  run("--positions", "first"),
  run("--dtype", "fp32"),
  run("--threads", "many"),
  run("--threads", "0"),
  run("--set", "eval.seqlen=3"),
  run("--set", "eval.seq_len"),
  run("--set", "eval.seq_len=0"),
  run("--set", "eval.seq_len=2048", "--dry-run"),
  run("-o", "heads/inner"),
  run("-o", "text.txt"),
  run("--condition", "L0.mlp.zero"),
  run("--worker", "nowhere"),
  // Conditions.
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L0.mpl.zero"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L0.mlp.zro"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L0.head.zero"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "mlp"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L99.mlp.zero", "--dry-run"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L0.head[9].zero", "--dry-run"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L0.mlp.zero + L0.layer.skip"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L3.mlp.zero + L-1.mlp.mean", "--dry-run"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "L0.mlp.zero", "--mode", "mean"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "dir[1a2b].project_out"],
  [
    "run",
    "-m",
    "model",
    "--text",
    "text.txt",
    "--condition",
    "joint[3 interventions, 0123456789abcdef]",
    "--from",
    "heads",
  ],
  [
    "run",
    "-m",
    "model",
    "--text",
    "text.txt",
    "--condition",
    "joint[3 interventions, 0123456789abcdef]",
    "--from",
    "empty",
  ],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "{kind: mlp, layer: -}"],
  ["run", "-m", "model", "--text", "text.txt", "--condition", "{kind: mpl, layer: 1}"],
  compare(),
  compare("--kind", "head", "--layer", "0"),
  compare("--kind", "head", "--layer", "zero", "--heads", "0"),
  compare("--kind", "mlp", "--layer", "0", "--heads", "0"),
  compare("--kind", "layer", "--layer", "0", "--mode", "mean"),
  compare("--layer", "0"),
  compare("--op", "add"),
  compare("--direction", "d.txt", "--op", "add"),
  compare("--condition", "L0.mlp.mean"),
  ["compare", "-m", "model", "--condition", "L0.mlp.zero"],
  compare("--condition", "L0.mlp.zero", "--max-new-tokens", "some"),
  bake(),
  bake("--condition", "L0.mlp.zero", "--dtype", "int8"),
  bake("-c", "good.yaml"),
  ["bake", "-m", "model", "--condition", "L0.mlp.zero"],
  bake("--from-run", "heads"),
  bake("--drop", "2"),
  ["bake", "--from-run", "nowhere", "--drop", "2", "--out", "baked"],
  ["bake", "--from-run", "heads", "--drop", "none", "--out", "baked"],
  // A smaller model.
  ["prune"],
  prune(),
  prune("--remove", "1", "--max-delta-nll", "0.1"),
  prune("--remove", "0"),
  prune("--remove", "one"),
  prune("--max-delta-nll", "-1"),
  prune("--target-params", "many"),
  prune("--remove", "1", "--unit", "heads"),
  prune("--remove", "1", "--blocks", "6"),
  prune("--remove", "1", "--align", "0"),
  prune("--remove", "1", "--compensate", "mean"),
  prune("--remove", "1", "--calibration", "text.txt"),
  prune("--remove", "1", "--compensate", "mean", "--calibration", "text.txt"),
  // Reports.
  ["report"],
  ["report", "nowhere"],
  ["report", "head"],
  ["report", "empty"],
  ["report", "text.txt"],
  ["report", "heads", "--top", "0"],
  ["report", "heads", "--top", "3", "--bottom", "3"],
  ["report", "heads", "--sort", "delta"],
  ["report", "heads", "custom", "--sort", "q"],
  ["report", "heads", "--format", "xml"],
  ["report", "heads", "--tokens", "L99.mlp.zero"],
  ["report", "heads", "--port", "80"],
  ["init"],
  ["init", "-m", "./modle"],
  ["inspect"],
  ["direction", "-m", "model"],
  ["keys"],
  ["docker", "start"],
  ["worker", "--engine", "gpu"],
  ["completion", "csh"],
  run("--json", "--layers", "0-3"),
  ["report", "--json"],
];

/** What a call says, and how it ends. */
async function answer(args: readonly string[]): Promise<string> {
  let out = "";
  let err = "";
  vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    out += text;
    return true;
  });
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    err += text;
    return true;
  });
  process.exitCode = undefined;
  let exit: number;
  try {
    await (await program(typedCommand(args) ?? "")).parseAsync([...args], { from: "user" });
    exit = Number(process.exitCode ?? 0);
  } catch (error) {
    exit = reportFailure(error, args);
  } finally {
    vi.restoreAllMocks();
    process.exitCode = undefined;
  }
  const shown = args.map((one) => (/[^\w./:=,@|-]/.test(one) ? `'${one}'` : one)).join(" ");
  const said = [out, err].map((text) => text.trimEnd()).filter((text) => text !== "");
  return `$ sparkablate ${shown}\n${said.join("\n")}\n→ exit ${exit}\n`;
}

it("each wrong call has its answer", async () => {
  const desk = realpathSync(mkdtempSync(join(tmpdir(), "sparkablate-wrong-")));
  const before = process.cwd();
  cpSync(RUNS, desk, { recursive: true });
  for (const name of ["model", "empty", "home"]) mkdirSync(join(desk, name));
  writeFileSync(
    join(desk, "model", "config.json"),
    JSON.stringify({
      ...{ model_type: "llama", num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4 },
      ...{ num_key_value_heads: 2, intermediate_size: 128, vocab_size: 100, max_position_embeddings: 1024 },
    }),
  );
  writeFileSync(join(desk, "text.txt"), "It is a truth universally acknowledged. ".repeat(200));
  writeFileSync(join(desk, "task.jsonl"), `${JSON.stringify({ prompt: "a", answer: " b" })}\n`);
  writeFileSync(
    join(desk, "good.yaml"),
    "model: {name: model}\neval: {dataset: text.txt}\nablation: {sweep: mlp}\n",
  );
  writeFileSync(join(desk, "d.txt"), "no direction");
  vi.stubEnv("SPARKABLATE_HOME", join(desk, "home"));
  vi.stubEnv("NO_COLOR", "1");
  vi.stubEnv("FORCE_COLOR", undefined);
  process.chdir(desk);
  const answers: string[] = [];
  try {
    for (const args of CALLS) answers.push(await answer(args));
  } finally {
    process.chdir(before);
    vi.unstubAllEnvs();
    rmSync(desk, { recursive: true });
  }
  // The model's place is a part of a directory's name.
  const text = answers
    .join("\n")
    .replaceAll(desk, "DESK")
    .replaceAll(/(dir: results\/.*-)[0-9a-f]{8}$/gm, "$1DIGEST");
  if (process.env.GOLDEN === "new") writeFileSync(FILE, text);
  for (const said of answers) expect(said).not.toMatch(/→ exit (0|1|70)$|TypeError|\[object|undefined|NaN/m);
  expect(text).toBe(readFileSync(FILE, "utf8"));
}, 60_000);
