/** Python's sweep() and the command measure the same: sums to the bit, one identity, each goes on with the other's run. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { packageRoot, resolveEnvironment } from "../../src/environment/environment.ts";
import { databasePath, RunStore } from "../../src/store/sqlite.ts";
import { cli, rewrite, scratch, standingWorker, tinyModel } from "../fixtures/harness.ts";

standingWorker();

interface Answer {
  readonly measured?: number;
  readonly rows?: Record<string, unknown>[];
  readonly config?: string;
  readonly code?: string;
  readonly message?: string;
  readonly interrupted?: boolean;
}

/** A Python that sweeps; it takes longer to import torch than all that the file asks of it. */
function startPython() {
  const { python: command } = resolveEnvironment();
  const script = join(packageRoot(), "test", "fixtures", "python_sweep.py");
  const env = { PYTHONPATH: join(packageRoot(), "worker"), OMP_NUM_THREADS: "1" };
  const child = execa(command, [script], { env, buffer: false, stderr: "inherit", reject: false });
  const lines = child.iterable()[Symbol.asyncIterator]();
  return {
    async ask(request: Record<string, unknown>): Promise<Answer[]> {
      child.stdin.write(`${JSON.stringify(request)}\n`);
      const answers: Answer[] = [];
      for (;;) {
        const { value, done } = await lines.next();
        if (done) throw new Error("Python ended before it had answered");
        if (value === "end") return answers;
        if (String(value).startsWith("{")) answers.push(JSON.parse(String(value)));
      }
    },
    async end(): Promise<void> {
      child.stdin.end();
      await child;
    },
  };
}

let sweeping: ReturnType<typeof startPython>;
const python = (request: Record<string, unknown>): Promise<Answer[]> => sweeping.ask(request);
beforeAll(() => {
  sweeping = startPython();
});
afterAll(() => sweeping.end());

const text = (directory: string): string => {
  const path = join(directory, "novel.txt");
  const words = ["rain", "the", "river", "walked", "along", "she", "until", "came", "then", "ran"];
  const at = (index: number) => words[(index * index + 3 * index) % words.length];
  writeFileSync(path, Array.from({ length: 9000 }, (_, index) => at(index)).join(" "));
  return path;
};

const stored = (directory: string) =>
  RunStore.reading(directory, (store) => {
    const sums: unknown[] = [];
    const ids = [...store.conditions()].map(({ id }) => id);
    store.forEachSum((condition, block, metric, sum) => sums.push(`${condition} ${block} ${metric} ${sum}`));
    return { ids, sums: sums.sort(), identity: store.run()?.identity, seen: store.seen()?.inputs };
  });

const KINDS = [
  { name: "heads, zero and mean", call: { conditions: "heads", mode: ["zero", "mean"] }, dtype: "float32" },
  { name: "layers in bfloat16", call: { conditions: "layers", metrics: ["kl"] }, dtype: "bfloat16" },
  {
    name: "listed, with a donor text",
    call: {
      conditions: ["L0.mlp.resample", ["L1.attn.zero", "L-1.layer.skip"], "L0..1.head[0].mean@not_first"],
    },
    dtype: "float32",
  },
  {
    name: "on top of given edits",
    call: { conditions: "heads", given: ["L1.mlp.mean + L0.head[1].zero", "L-1.attn.resample"] },
    dtype: "bfloat16",
  },
];

describe("the same run in both languages", () => {
  const directory = mkdtempSync(join(tmpdir(), "sparkablate-test-"));
  afterAll(() => rmSync(directory, { recursive: true }));
  const placeOf = (name: string) => join(directory, name.replaceAll(/\W/g, ""));
  /** By kind: what the call answered, and the same call again. */
  const answers = new Map<string, Answer[]>();
  beforeAll(async () => {
    const shared = { text: text(directory), blocks: 8, seq_len: 24, calibration_blocks: 8 };
    const calls = KINDS.flatMap(({ name, call, dtype }) => {
      const one = { ...call, ...shared, dir: placeOf(name) };
      return [{ ...one, dtype }, one];
    });
    const all = await python({ model: tinyModel(), calls });
    for (const [index, { name }] of KINDS.entries()) answers.set(name, all.slice(2 * index, 2 * index + 2));
  }, 300_000);

  it.each(KINDS)("$name", { timeout: 300_000 }, async ({ name: kind }) => {
    const [mine, theirs] = [placeOf(kind), `${placeOf(kind)}-command`];
    const [first, again] = answers.get(kind) ?? [];
    expect(again?.measured).toBe(0);
    expect(again?.rows).toEqual(first?.rows);
    const config = join(mine, "config.yaml");
    expect(readFileSync(config, "utf8")).toBe(first?.config);
    await cli(["run", "-c", config, "--set", `output.dir=${theirs}`, "-q"]);
    const [left, right] = [stored(mine), stored(theirs)];
    expect(left).toEqual(right);
    expect(left.sums.length).toBeGreaterThan(0);
    const { stdout } = await cli(["report", theirs, "--format", "json", "--no-plots"]);
    const rows = JSON.parse(String(stdout)).rows as Record<string, unknown>[];
    for (const [index, row] of (first?.rows ?? []).entries()) {
      const other = rows.find(({ condition }) => condition === row.condition) ?? {};
      for (const name of ["nll", "delta_nll", "se", "blocks", "status", "worse_blocks", "distinguishable"])
        expect([index, name, row[name]]).toEqual([index, name, other[name]]);
      for (const name of ["p", "q", "sign_p"])
        if (typeof row[name] === "number")
          expect(Math.abs((row[name] as number) / (other[name] as number) - 1)).toBeLessThan(1e-9);
      expect(row.flags).toBe((other.flags as string[]).join("; "));
    }
  });

  it("a run goes on in the other language, and is recognised there without loading", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const [whole, cut] = [join(directory, "whole"), join(directory, "cut")];
    const call = { conditions: "layers", text: text(directory), blocks: 8, seq_len: 24 };
    const [, interrupted] = await python({
      model: tinyModel(),
      calls: [
        { ...call, dir: whole },
        { ...call, dir: cut, interrupt: 3 },
      ],
    });
    expect(interrupted).toEqual({ measured: 3, interrupted: true });
    const { stderr } = await cli(["run", "-c", join(cut, "config.yaml")]);
    expect(stderr).toContain("3 of 10 measurements are already stored");
    expect(stored(cut).sums).toEqual(stored(whole).sums);
    const recognised = await cli(["run", "-c", join(whole, "config.yaml"), "--json"]);
    expect(recognised.stderr).not.toContain("self-test");
    rewrite(cut, "DELETE FROM measurement WHERE condition = 2; UPDATE run SET finished_at = NULL");
    const [resumed] = await python({ model: tinyModel(), calls: [{ ...call, dir: cut }] });
    expect(resumed?.measured).toBe(2);
    expect(stored(cut).sums).toEqual(stored(whole).sums);
  });
});

describe("what is not the same run", () => {
  it("an edited model has an identity of its own, and no command takes its directory", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const dir = join(directory, "run");
    const call = { conditions: "layers", text: text(directory), blocks: 8, seq_len: 24, dir };
    const [first] = await python({ model: tinyModel(), edit: true, calls: [call] });
    expect(first?.rows?.length).toBe(5);
    const refused = await cli(["run", "-c", join(dir, "config.yaml")], { reject: false });
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain("was an object in Python, which no command can load");
    const { stdout } = await cli(["report", dir, "--no-plots"]);
    expect(stdout).toContain("in-memory:");
    const [other] = await python({ model: tinyModel(), calls: [call] });
    expect(other?.code).toBe("other_run");
    expect(other?.message).toContain("weights:");
  });

  it("sites and metrics of one's own are reported, and refused by name elsewhere", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const dir = join(directory, "run");
    const call = { conditions: "mypkg.gate", metrics: ["mypkg.largest"], blocks: 8, seq_len: 24, dir };
    // What it registers stays as long as it lives.
    const stranger = startPython();
    onTestFinished(() => stranger.end());
    const [own, again] = await stranger.ask({
      model: tinyModel(),
      own: true,
      calls: [
        { ...call, text: text(directory) },
        { ...call, text: text(directory) },
      ],
    });
    expect(own?.rows?.map(({ condition }) => condition)).toContain("L0.mypkg.gate.zero");
    expect(again?.measured).toBe(0);
    const { stdout } = await cli(["report", dir, "--no-plots"]);
    expect(stdout).toContain("L0.mypkg.gate.zero");
    expect(stdout).toContain("mypkg.largest");
    const refused = await cli(["run", "-c", join(dir, "config.yaml")]);
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain("mypkg.");
  });

  it("texts in memory are kept with the run, a task too; results in memory are saved later", {
    timeout: 300_000,
  }, async () => {
    const directory = scratch();
    const [dir, save, task] = ["text", "saved", "task"].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    const novel = readFileSync(text(directory), "utf8");
    const items = Array.from({ length: 16 }, (_, index) => ({
      prompt: `the river ${index}`,
      answer: " rain",
      wrong: " walked",
    }));
    const call = { conditions: ["L1.layer.skip"], blocks: 8, seq_len: 24 };
    const [, saved] = await python({
      model: tinyModel(),
      calls: [
        { ...call, text: novel, dir },
        { ...call, text: novel, save },
        { ...call, task: items, dir: task },
      ],
    });
    expect(saved?.rows?.length).toBe(2);
    for (const path of [dir, save, task]) {
      const { stderr } = await cli(["run", "-c", join(path, "config.yaml")]);
      expect(stderr).not.toContain("self-test");
      expect((await cli(["report", path, "--no-plots"])).stdout).toContain("L1.layer.skip");
    }
    expect(stored(save).sums).toEqual(stored(dir).sums);
    expect(readFileSync(databasePath(task)).length).toBeGreaterThan(0);
  });
});
