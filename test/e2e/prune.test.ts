/** `sparkablate prune` on six layers, beside brute force over every set of up to three. */
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { parse, stringify } from "yaml";
import { sha256 } from "../../src/digest.ts";
import { resolveEnvironment } from "../../src/environment/environment.ts";
import type { Pruned } from "../../src/prune/prune.ts";
import type { Row } from "../../src/results/row.ts";
import { readRun } from "../../src/store/run-directory.ts";
import { RunStore } from "../../src/store/sqlite.ts";
import { hasBrowser, hoverText, inBrowser, launchBrowser, visit } from "../fixtures/browser.ts";
import { cli, NORTHANGER, standingWorker, tinyModel, until } from "../fixtures/harness.ts";

standingWorker();

const LAYERS = 6;
const desk = mkdtempSync(join(tmpdir(), "sparkablate-prune-"));
afterAll(() => rmSync(desk, { recursive: true }));
const model = tinyModel("--layers", String(LAYERS));
// Beginnings of two novels: what is tokenised anew for every run is short.
const texts = ["northanger-abbey", "sense-and-sensibility"].map((name) => {
  const file = join(desk, `${name}.txt`);
  writeFileSync(file, readFileSync(NORTHANGER.replace("northanger-abbey", name), "utf8").slice(0, 40_000));
  return file;
});
const out = join(desk, "pruned");
const line = (directory: string, ...more: string[]) => [
  ...["prune", "-m", model, "--text", ...texts, "--seq-len", "32", "--blocks", "16", "--held-out", "16"],
  ...["--dtype", "float32", "--out", directory, ...more],
];
const path = (directory: string): Pruned => JSON.parse(readFileSync(join(directory, "path.json"), "utf8"));
const weightsFile = (directory: string) => readFileSync(join(directory, "model", "model.safetensors"));
const weights = (directory: string) => sha256(weightsFile(directory));
const card = (directory: string) => readFileSync(join(directory, "model", "README.md"), "utf8");

/** Numbers in a safetensors file, by its header. */
function numbersIn(file: Buffer): number {
  const header = JSON.parse(file.subarray(8, 8 + Number(file.readBigUInt64LE())).toString());
  const tensors = Object.values(header) as { shape?: number[] }[];
  return tensors.reduce((sum, { shape }) => sum + (shape?.reduce((a, b) => a * b, 1) ?? 0), 0);
}

/** Another run on the blocks that the search chose with. */
async function measured(name: string, ablation: Record<string, unknown>) {
  const config = parse(readFileSync(join(out, "steps", "001", "config.yaml"), "utf8"));
  const dir = join(desk, name);
  writeFileSync(`${dir}.yaml`, stringify({ ...config, ablation, stop: null, output: { dir } }));
  const { exitCode, stderr } = await cli(["run", "-c", `${dir}.yaml`, "--no-plots", "-q"]);
  expect(exitCode, String(stderr)).toBe(0);
  return readRun(dir).rows.slice(1);
}

describe("a search for three layers of six", { timeout: 600_000 }, () => {
  it("writes a certified checkpoint of the best sets it found, and goes on where it was killed", async () => {
    const first = await cli(line(out, "--remove", "3", "--json"));
    expect(first.exitCode, String(first.stderr)).toBe(0);
    const found: Pruned = JSON.parse(String(first.stdout));
    expect(found).toEqual(path(out));
    expect(found).toMatchObject({ chosen: 3, reached: true, texts });
    expect(found.steps.map(({ removed }) => removed.length)).toEqual([1, 2, 3]);
    for (const { held_out } of found.steps) expect(held_out.map(({ blocks }) => blocks)).toEqual([16, 16]);
    const { num_hidden_layers } = JSON.parse(readFileSync(join(out, "model", "config.json"), "utf8"));
    expect(num_hidden_layers).toBe(LAYERS - 3);

    const again = join(desk, "killed");
    const killed = cli(line(again, "--remove", "3"));
    await until(() => existsSync(join(again, "steps", "002")), 120, "the second step begins");
    killed.kill("SIGKILL");
    expect((await killed).signal).toBe("SIGKILL");
    expect((await cli(line(again, "--remove", "3"))).exitCode).toBe(0);
    expect({ ...path(again), checkpoint: null }).toEqual({ ...found, checkpoint: null });
    expect(weights(again)).toBe(weights(out));
    // The card is the same but for the time that it took.
    const untimed = (text: string) => text.replace(/\| tokens a second \|.*/, "");
    expect(untimed(card(again))).toBe(untimed(card(out)));
    expect(untimed(card(out))).not.toBe(card(out));
  });

  it("says what each step weighs, and how the model did before and after", () => {
    const { unedited, steps, checkpoint } = path(out);
    const before = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
    const layer = (unedited?.weights?.parameters as number) - (steps[0]?.weights?.parameters as number);
    for (const { size, weights } of steps) {
      expect(weights?.parameters).toBe((unedited?.weights?.parameters as number) - size * layer);
      expect(weights?.bytes).toBe(4 * (weights?.parameters as number));
    }
    expect(before.num_hidden_layers * layer).toBeLessThan(unedited?.weights?.parameters as number);
    expect(numbersIn(weightsFile(out))).toBe(steps[2]?.weights?.parameters);
    for (const { held_out, nll } of steps)
      for (const [text, { delta_nll }] of held_out.entries()) {
        const [old, now] = [unedited?.nll[text], nll[text]];
        expect((now?.nll as number) - (old?.nll as number)).toBeCloseTo(delta_nll as number, 9);
        expect(now?.ci95?.[0]).toBeLessThan(now?.nll as number);
      }
    const [sample] = readRun(join(out, "held-out", "1-1")).rows;
    expect(unedited?.nll[0]?.nll).toBeCloseTo(sample?.nll as number, 9);
    expect(checkpoint?.timing).toMatchObject({ batch_size: 4, seq_len: 128, rounds: 5, device: "cpu" });
    const said = card(out);
    expect(said).toContain("## Before and after");
    expect(said).toContain(
      `| parameters | ${unedited?.weights?.parameters.toLocaleString("en-US")} | ${numbersIn(weightsFile(out)).toLocaleString("en-US")} |`,
    );
    expect(said).toMatch(/\| NLL, northanger-abbey\.txt \(nats a token\) \| \d\.\d{4} \[/);
    expect(said).toContain("not proved to be the best there is");
    expect(said).not.toContain(desk);
  });

  it("has a page and a plot, which `report` makes again and says in every format", async () => {
    const page = join(out, "report.html");
    const text = readFileSync(page, "utf8");
    expect(
      readFileSync(join(out, "plots", "path.png"))
        .subarray(1, 4)
        .toString(),
    ).toBe("PNG");
    rmSync(page);
    const { exitCode, stdout, stderr } = await cli(["report", out, "--format", "json"]);
    expect([exitCode, JSON.parse(String(stdout))]).toEqual([0, path(out)]);
    expect(stderr).toContain(`page: ${page}`);
    expect(readFileSync(page, "utf8")).toBe(text);
    const csv = await cli(["report", out, "--format", "csv", "--no-plots"]);
    const lines = String(csv.stdout).trim().split("\r\n");
    expect(lines).toHaveLength(1 + 3 * texts.length);
    expect(lines[0]).toMatch(
      /^size,removed,nested,written,parameters,bytes,text,blocks,nll,delta_nll,se,ci95_low/,
    );
    const refused = await cli(["report", out, out]);
    expect([refused.exitCode, refused.stderr]).toEqual([
      2,
      expect.stringContaining("is a search's directory, not a run's"),
    ]);
    const top = await cli(["report", out, "--top", "3"]);
    expect([top.exitCode, top.stderr]).toEqual([
      2,
      expect.stringContaining("--top cannot be combined with a search's directory"),
    ]);
    // Before it has ended there is nothing to say.
    const begun = join(desk, "begun");
    mkdirSync(begun);
    writeFileSync(join(begun, "search.json"), readFileSync(join(out, "search.json")));
    const early = await cli(["report", begun]);
    expect([early.exitCode, early.stderr]).toEqual([
      2,
      expect.stringContaining("a search that has not ended"),
    ]);
    writeFileSync(join(begun, "path.json"), "{");
    const damaged = await cli(["report", begun]);
    expect([damaged.exitCode, damaged.stderr]).toEqual([3, expect.stringContaining("path.json is damaged")]);
  });

  it.skipIf(!hasBrowser)(`is shown on a desk and on a phone, ${inBrowser}`, async () => {
    const browser = await launchBrowser();
    for (const width of [1280, 390])
      await visit(browser, pathToFileURL(join(out, "report.html")).href, {
        width,
        check: async (page) => {
          expect(await page.locator("#ranking tbody tr").count()).toBe(3);
          expect(await page.locator("#count").textContent()).toBe("3 of 3 steps shown");
          expect(await page.locator("#only").isVisible()).toBe(false);
          expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBe(width);
          expect(await hoverText(page, 0, 0)).toContain("3 removed");
          await page.locator("#theme").click();
          expect(await page.locator("html").getAttribute("data-theme")).toBe("dark");
        },
      });
    await browser.close();
  });

  it("is at least as good as plain greedy in every size, and its values are those of the joint conditions", async () => {
    const all = Array.from({ length: 2 ** LAYERS }, (_, bits) =>
      Array.from({ length: LAYERS }, (_, layer) => layer).filter((layer) => bits & (1 << layer)),
    ).filter(({ length }) => length >= 1 && length <= 3);
    const id = (set: readonly number[]) => set.map((layer) => `L${layer}.layer.skip`).join(" + ");
    const rows = await measured("every-set", { sweep: "custom", targets: all.map(id) });
    const value = new Map(rows.map(({ delta_nll }, index) => [String(all[index]), delta_nll as number]));
    let greedy: number[] = [];
    for (const { removed, selection_delta_nll } of path(out).steps) {
      const set = removed.map((one) => Number(/^L(\d+)\.layer\.skip$/.exec(one)?.[1]));
      expect(selection_delta_nll).toBe(value.get(String(set)));
      const larger = all.filter(
        (each) => each.length === set.length && greedy.every((layer) => each.includes(layer)),
      );
      greedy = larger.reduce((least, each) => (worth(each) < worth(least) ? each : least));
      expect(selection_delta_nll).toBeLessThanOrEqual(worth(greedy));
    }
    function worth(set: readonly number[]): number {
      return value.get(String(set)) as number;
    }
  });

  it("races in its first step as `sweep: layers` measures", async () => {
    const sweep = new Map((await measured("layers", { sweep: "layers" })).map((row) => [row.condition, row]));
    for (const row of readRun(join(out, "steps", "001")).rows.slice(1))
      if (row.blocks === 32) expect(row.nll).toBe(sweep.get(row.condition)?.nll);
  });

  it("its sweep of layers drops the least harmful ones, measured on blocks that it did not use", async () => {
    const sweep = join(desk, "layers");
    const target = join(desk, "dropped");
    const ran = await cli(["bake", "--from-run", sweep, "--drop", "2", "--out", target, "--json"]);
    expect(ran.exitCode, String(ran.stderr)).toBe(0);
    const { dropped, held_out } = JSON.parse(String(ran.stdout));
    const ranked = readRun(sweep)
      .rows.slice(1)
      .sort((a, b) => (a.delta_nll as number) - (b.delta_nll as number));
    expect(dropped).toEqual(ranked.slice(0, 2).map(({ condition }) => condition));
    const { rows } = readRun(`${sweep}-drop-2`);
    expect(held_out.delta_nll).toBe(rows[1]?.delta_nll);
    expect(ran.stderr).toContain("blocks that the run did not use: Δ NLL");
    const blocksOf = (name: string) =>
      RunStore.reading(name, (store) => store.blocks("evaluation").map(({ sha256 }) => sha256));
    expect(blocksOf(`${sweep}-drop-2`).filter((block) => blocksOf(sweep).includes(block))).toEqual([]);
    expect(JSON.parse(readFileSync(join(target, "config.json"), "utf8")).num_hidden_layers).toBe(LAYERS - 2);
    for (const [from, more, said] of [
      [sweep, ["--drop", "6"], "--drop 6: the run has measured 6 layers; allowed: whole numbers from 1 to 5"],
      [sweep, ["--drop", "two"], "--drop two: a number is wanted"],
      [sweep, [], "--from-run needs --drop"],
      [sweep, ["--drop", "1", "-m", model], "--model cannot be combined with --from-run"],
      [join(out, "held-out", "1-1"), ["--drop", "1"], "its sweep is custom"],
    ] as const) {
      const refused = await cli(["bake", "--from-run", from, ...more, "--out", join(desk, "none")]);
      expect([refused.exitCode, refused.stderr]).toEqual([2, expect.stringContaining(said)]);
    }
  });

  it("refuses what is another search, and tests another target on blocks that nobody has seen", async () => {
    const other = await cli(line(out, "--remove", "3", "--seed", "1"));
    expect([other.exitCode, other.stderr]).toEqual([2, expect.stringContaining("seed: 0 there, 1 now")]);
    const looked = await cli(line(out, "--remove", "2"));
    expect([looked.exitCode, looked.stderr]).toEqual([2, expect.stringContaining("--fresh-holdout")]);
    // A model has one layer at least: the best found is written, and said not to be what was asked for.
    const fresh = await cli(line(out, "--remove", "9", "--fresh-holdout"));
    expect(fresh.exitCode, String(fresh.stderr)).toBe(1);
    expect(path(out)).toMatchObject({ chosen: LAYERS - 1, reached: false });
    const [, second, ...larger] = path(out).steps.map(({ weights }) => weights?.parameters as number);
    const far = await cli(line(out, "--target-params", "2K", "--fresh-holdout"));
    expect([far.exitCode, far.stdout]).toEqual([1, expect.stringContaining("Out of reach: at most 2,000")]);
    expect(path(out)).toMatchObject({ chosen: LAYERS - 1, reached: false });
    expect(
      path(out)
        .steps.map(({ weights }) => weights?.parameters)
        .slice(2),
    ).toEqual(larger);
    // The first step that is small enough, and no more is searched.
    const small = await cli(line(out, "--target-params", `${(second as number) / 1000}K`, "--fresh-holdout"));
    expect(small.exitCode, String(small.stderr)).toBe(0);
    expect(path(out)).toMatchObject({ chosen: 2, reached: true, target: { target_params: second } });
    expect(path(out).steps).toHaveLength(2);
    const blocks = (name: string) => readFileSync(join(out, "held-out", name, "config.yaml"), "utf8");
    expect(blocks("2-1")).toContain("skip_batches: 8");
    expect(blocks("1-1")).toContain("skip_batches: 4");
  });
});

describe("a key/value group of every layer", { timeout: 600_000 }, () => {
  it("is the least harmful one of each, and is cut out of the checkpoint", async () => {
    const directory = join(desk, "groups");
    const args = line(directory, "--unit", "kv_groups", "--remove", "1", "--json");
    const { exitCode, stdout, stderr } = await cli(args.map((arg) => (arg === model ? tinyModel() : arg)));
    expect(exitCode, String(stderr)).toBe(0);
    const { steps, checkpoint }: Pruned = JSON.parse(String(stdout));
    const { rows } = readRun(join(directory, "steps", "001"));
    const layers = Map.groupBy(rows.slice(1), ({ interventions: [one] }) => (one as { layer: number }).layer);
    const least = [...layers.values()].map((groups) =>
      groups.reduce((low, row) => ((row.delta_nll as number) < (low.delta_nll as number) ? row : low)),
    );
    expect(steps.map(({ removed }) => removed)).toEqual([least.map(({ condition }) => condition)]);
    const configuration = (path: string) => JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
    const [before, after] = [configuration(tinyModel()), configuration(join(directory, "model"))];
    expect(after.num_key_value_heads).toBe(before.num_key_value_heads - 1);
    expect(checkpoint?.certificate.behaviour.kl).toBeLessThan(1e-6);
  });
});

describe("a sixteenth of every layer's neurons", { timeout: 600_000 }, () => {
  it("is measured by attribution's leave, beside what is gone, and cut out of the checkpoint", async () => {
    const directory = join(desk, "neurons");
    const args = line(directory, "--unit", "neurons", "--remove", "9", "--json");
    const { exitCode, stdout, stderr } = await cli(args.map((arg) => (arg === model ? tinyModel() : arg)));
    expect(exitCode, String(stderr)).toBe(0);
    const { steps, checkpoint, chosen }: Pruned = JSON.parse(String(stdout));
    const configuration = (path: string) => JSON.parse(readFileSync(join(path, "config.json"), "utf8"));
    const width: number = configuration(tinyModel()).intermediate_size;
    const step = width / 16;
    // Whole steps: the first that reaches 9.
    expect(chosen).toBe(Math.ceil(9 / step) * step);
    expect(configuration(join(directory, "model")).intermediate_size).toBe(width - (chosen as number));
    expect(checkpoint?.certificate.behaviour.kl).toBeLessThan(1e-6);
    const [first, second] = [1, 3].map((number) =>
      readRun(join(directory, "steps", String(number).padStart(3, "0"))).rows.slice(1),
    ) as [Row[], Row[]];
    // Of twice as many as go, each layer loses the least harmful.
    const layers = Map.groupBy(first, ({ interventions: [one] }) => (one as { layer: number }).layer);
    const least = [...layers.values()].map((rows) => {
      expect(rows).toHaveLength(2 * step);
      const order = rows.toSorted((a, b) => (a.delta_nll as number) - (b.delta_nll as number));
      return order
        .slice(0, step)
        .map(({ interventions: [one] }) => (one as { neurons: number[] }).neurons[0]);
    });
    const listed = (ids: readonly string[]) => ids.map((id) => /\[(.*)\]/.exec(id)?.[1]);
    const sorted = least.map((neurons) => neurons.toSorted((a, b) => (a as number) - (b as number)).join());
    expect(listed(steps[0]?.removed ?? [])).toEqual(sorted);
    expect(second.every(({ given }) => given === steps[0]?.removed.join(" + "))).toBe(true);
  });
});

describe("texts that cannot both choose and test", { timeout: 600_000 }, () => {
  const page = join(desk, "page.txt");
  writeFileSync(page, readFileSync(NORTHANGER, "utf8").slice(0, 150).repeat(100));
  const search = (directory: string, text: readonly string[], ...more: string[]) => [
    ...["prune", "-m", tinyModel(), "--text", ...text, "--seq-len", "32", "--blocks", "8", "--held-out", "8"],
    ...["--dtype", "float32", "--out", join(desk, directory), ...more],
  ];

  it("are refused before anything is measured, each with its reason", async () => {
    const said = async (args: string[]) => {
      const { exitCode, stderr } = await cli(args);
      return [exitCode, String(stderr)];
    };
    expect(await said(search("page", [page, ...texts], "--max-delta-nll", "0.1"))).toEqual([
      2,
      expect.stringContaining(`${page}: every held-out block repeats text that chooses the units`),
    ]);
    const copy = join(desk, "copy.txt");
    writeFileSync(copy, readFileSync(texts[0] as string));
    expect(await said(search("copy", [texts[0] as string, copy], "--remove", "1"))).toEqual([
      2,
      expect.stringContaining(`and ${copy} hold the same text`),
    ]);
    const short = join(desk, "short.txt");
    writeFileSync(short, readFileSync(NORTHANGER, "utf8").slice(0, 400));
    expect(await said(search("short", [short], "--remove", "1"))).toEqual([
      2,
      expect.stringMatching(
        /short\.txt has \d+ blocks of 32 tokens, and the search takes 16: 8 choose, 8 test/,
      ),
    ]);
    for (const name of ["page", "copy", "short"]) expect(existsSync(join(desk, name, "steps"))).toBe(false);
  });

  it("are told apart where nothing is tested", async () => {
    const { exitCode, stderr } = await cli(search("told", [page, texts[0] as string], "--remove", "1"));
    expect(exitCode, String(stderr)).toBe(0);
    expect(stderr).toContain(`8 of 8 held-out blocks of ${page} repeat text that chose the units`);
    const { held_out } = path(join(desk, "told")).steps[0] as Pruned["steps"][0];
    expect(held_out.map(({ repeats }) => repeats)).toEqual([true, false]);
    expect(held_out.map(({ upper95 }) => upper95 === null)).toEqual([true, false]);
  });
});

describe("a layer whose mean write stays", { timeout: 600_000 }, () => {
  it("is found and tested with the means of one text, and baked as a constant in a layer below", async () => {
    const directory = join(desk, "constant");
    const [text, calibration] = texts as [string, string];
    const { exitCode, stdout, stderr } = await cli([
      ...["prune", "-m", tinyModel(), "--text", text, "--seq-len", "32", "--blocks", "8", "--held-out", "8"],
      ...["--remove", "1", "--compensate", "mean", "--calibration", calibration],
      ...["--dtype", "float32", "--out", directory, "--json"],
    ]);
    expect(exitCode, String(stderr)).toBe(0);
    expect(String(stderr)).toContain("L0.layer.mean: no layer below it stays");
    const { steps, checkpoint }: Pruned = JSON.parse(String(stdout));
    expect(steps[0]?.removed).toEqual([expect.stringMatching(/^L[123]\.layer\.mean$/)]);
    const { rows } = readRun(join(directory, "steps", "001"));
    expect(rows.slice(1).map(({ condition }) => condition)).toEqual(
      [1, 2, 3].map((layer) => `L${layer}.layer.mean`),
    );
    const configuration = JSON.parse(readFileSync(join(directory, "model", "config.json"), "utf8"));
    expect(configuration).toMatchObject({ num_hidden_layers: 3, mlp_bias: true });
    expect(numbersIn(weightsFile(directory))).toBe(steps[0]?.weights?.parameters);
    expect(checkpoint?.certificate.behaviour.kl).toBeLessThan(1e-6);
    expect(card(directory)).toContain("its mean write over sense-and-sensibility.txt");
    // Means are of the same blocks everywhere.
    const calibrated = ["steps/001", "held-out/1-1"].map((name) =>
      RunStore.reading(join(directory, name), (store) =>
        store.blocks("calibration").map(({ sha256 }) => sha256),
      ),
    );
    expect(calibrated[0]).toHaveLength(32);
    expect(calibrated[1]).toEqual(calibrated[0]);
  });
});

describe("a number of groups that the stock class refuses", { timeout: 600_000 }, () => {
  it("is passed over, and the search goes on to one that it takes", async () => {
    // 64 is no multiple of 3 heads, and one of 2.
    const four = join(desk, "four-groups");
    cpSync(tinyModel(), four, { recursive: true });
    const script = `import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
config = LlamaConfig.from_pretrained(sys.argv[1])
config.num_key_value_heads = config.num_attention_heads
LlamaForCausalLM(config).save_pretrained(sys.argv[1])`;
    execFileSync(resolveEnvironment().python, ["-c", script, four], { stdio: "pipe" });
    const directory = join(desk, "passed-over");
    const { exitCode, stdout, stderr } = await cli([
      ...["prune", "-m", four, "--text", texts[0] as string, "--seq-len", "32", "--blocks", "4"],
      ...["--held-out", "4", "--unit", "kv_groups", "--remove", "2", "--dtype", "float32"],
      ...["--out", directory, "--json"],
    ]);
    expect(exitCode, String(stderr)).toBe(0);
    const { steps, chosen }: Pruned = JSON.parse(String(stdout));
    expect(steps.map(({ refusal }) => refusal)).toEqual([
      expect.stringContaining("num_key_value_heads 3"),
      null,
    ]);
    expect(chosen).toBe(2);
    const configuration = JSON.parse(readFileSync(join(directory, "model", "config.json"), "utf8"));
    expect(configuration.num_key_value_heads).toBe(2);
  });
});

describe("what every layer loses, with its mean write as a bias", { timeout: 600_000 }, () => {
  it.each([
    ["kv_groups", "1", { num_key_value_heads: 1, attention_bias: true }],
    ["neurons", "8", { intermediate_size: 120, mlp_bias: true }],
  ])("%s", async (unit, remove, keys) => {
    const directory = join(desk, `constant-${unit}`);
    const [text, calibration] = texts as [string, string];
    const { exitCode, stdout, stderr } = await cli([
      ...["prune", "-m", tinyModel(), "--text", text, "--seq-len", "32", "--blocks", "4", "--held-out", "4"],
      ...["--unit", unit, "--remove", remove, "--compensate", "mean", "--calibration", calibration],
      ...["--dtype", "float32", "--out", directory, "--json"],
    ]);
    expect(exitCode, String(stderr)).toBe(0);
    const { steps, checkpoint }: Pruned = JSON.parse(String(stdout));
    for (const id of steps[0]?.removed ?? []) expect(id).toMatch(/\]\.mean$/);
    const configuration = JSON.parse(readFileSync(join(directory, "model", "config.json"), "utf8"));
    expect(configuration).toMatchObject(keys);
    expect(numbersIn(weightsFile(directory))).toBe(steps[0]?.weights?.parameters);
    expect(checkpoint?.certificate.behaviour.kl).toBeLessThan(1e-6);
  });
});

describe("a line that asks for no search", () => {
  it.each([
    [["--remove", "3", "--max-delta-nll", "0.1"], "--max-delta-nll cannot be combined with --remove"],
    [["--remove", "3", "--target-params", "1M"], "--remove cannot be combined with --target-params"],
    [[], "say how much to remove"],
    [["--target-params", "1.2X"], "--target-params 1.2X: a number of parameters is wanted"],
    [["--target-params", "0"], "target_params is 0; allowed: whole numbers from 1"],
    [["--target-params", "1B"], "parameters, no more than the 1,000,000,000 of target_params"],
    [["--remove", "half"], "--remove half: a number is wanted"],
    [["--remove", "1", "--blocks", "6"], "blocks is 6, no multiple of 4"],
    [["--remove", "1", "--align", "0"], "align is 0; allowed: whole numbers from 1"],
    [["--remove", "1", "--compensate", "mean"], "compensate: mean needs a text for its means"],
    [["--remove", "1", "--calibration", texts[0] as string], "calibration is of no use without"],
    [["--remove", "1", "--compensate", "mean", "--calibration", texts[1] as string], "chooses and tests"],
    [["--remove", "1.5"], "remove is 1.5; allowed: whole numbers from 1"],
    [["--remove", "1", "--unit", "heads"], "Allowed choices are layers, kv_groups, neurons"],
  ])("%j", async (more, said) => {
    const { exitCode, stderr } = await cli(line(join(desk, "none"), ...more));
    expect([exitCode, stderr]).toEqual([2, expect.stringContaining(said)]);
  });
});
