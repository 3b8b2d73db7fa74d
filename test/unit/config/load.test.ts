import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stringify } from "yaml";
import { identityConfig, loadConfig, parseConfig, resolvedYaml } from "../../../src/config/load.ts";
import { SparkablateError } from "../../../src/errors.ts";

let cwd: string;
beforeAll(() => {
  cwd = mkdtempSync(join(tmpdir(), "sparkablate-config-"));
  writeFileSync(join(cwd, "text.txt"), "It is a truth universally acknowledged.");
  writeFileSync(join(cwd, "d.safetensors"), "");
  mkdirSync(join(cwd, "model"));
  writeFileSync(join(cwd, "model", "config.json"), "{}");
  mkdirSync(join(cwd, "empty"));
});
afterAll(() => rmSync(cwd, { recursive: true }));

const MODEL = "model: {name: org/model}\n";
const parse = (text: string, set: string[] = []) => parseConfig(text, "run.yaml", { cwd, set });

/** The error's code and lines. */
function refusal(text: string, set: string[] = []): { code: string; lines: string[] } {
  try {
    parse(text, set);
  } catch (error) {
    if (!(error instanceof SparkablateError)) throw error;
    return { code: error.code, lines: error.message.split("\n") };
  }
  throw new Error(`accepted: ${text}`);
}

describe("defaults", () => {
  it("fills in all of spec 4 from a model's name", () => {
    const config = parse(MODEL);
    expect(config).toEqual({
      model: {
        name: "org/model",
        revision: null,
        dtype: "auto",
        device: "auto",
        device_map: null,
        attn_implementation: null,
        threads: null,
        trust_remote_code: false,
      },
      eval: {
        dataset: { path: "Salesforce/wikitext", config: "wikitext-2-raw-v1", split: "test", column: "text" },
        task: null,
        calibration: {
          path: "Salesforce/wikitext",
          config: "wikitext-2-raw-v1",
          split: "train",
          column: "text",
        },
        seq_len: 1024,
        batch_size: 4,
        max_batches: 16,
        skip_batches: 0,
        calibration_batches: 8,
        add_bos: "auto",
        seed: 0,
        metrics: ["nll"],
      },
      ablation: {
        mode: "zero",
        sweep: "layers",
        layers: "all",
        from: null,
        top: null,
        positions: "all",
        source: null,
        targets: [],
        directions: [],
      },
      stop: null,
      output: { dir: join(cwd, "results/run") },
    });
  });

  it("takes an emptied section for one that was left out", () => {
    expect(parse(`${MODEL}eval:\nablation:\noutput:\n`)).toEqual(parse(MODEL));
  });

  it("gives targets the sweep's mode and positions, and directions what follows from their op", () => {
    const { targets, directions } = parse(`${MODEL}ablation:
  sweep: custom
  mode: mean
  positions: not_first
  targets:
    - {kind: mlp, layer: 1}
    - [{kind: head, layer: 1, heads: [7, 3], mode: zero, positions: all}, {kind: layer, layer: 2}]
  directions:
    - {path: d.safetensors, op: project_out}
    - {path: d.safetensors, op: add}
`).ablation;
    expect(targets).toEqual([
      [{ kind: "mlp", layer: 1, mode: "mean", positions: "not_first" }],
      [
        { kind: "head", layer: 1, heads: [3, 7], mode: "zero", positions: "all" },
        { kind: "layer", layer: 2, mode: "skip" },
      ],
    ]);
    const path = join(cwd, "d.safetensors");
    const common = { path, coefficient: 1, positions: "not_first" };
    expect(directions).toEqual([
      { ...common, op: "project_out", at: "writes", layers: "all" },
      { ...common, op: "add", at: "stream", layers: null },
    ]);
  });
});

describe("errors", () => {
  it("names every one at once, with file, line, key, and what is allowed", () => {
    const { code, lines } = refusal(`model:
  nam: x
  dtype: bflot16
evall: {}
eval:
  dataset: missing.txt
  seq_len: 1
  batch_size: "2"
  metrics: [kl, tpo1]
ablation:
  sweep: head
  layers: [0, 4.5]
  targets:
    - {kind: heads, layer: 3}
    - [{kind: head, layer: 3, heads: []},
       {kind: mlp, layer: 1.5, mod: zero}]
stop: {top: 0}
`);
    expect(code).toBe("config_invalid");
    const expected = [
      /^run\.yaml:1: model\.name: is missing; allowed: .*builtin:smollm2-135m$/,
      /^run\.yaml:2: model\.nam: is not a key, did you mean "name"\?; allowed: name, revision/,
      /^run\.yaml:3: model\.dtype: "bflot16" does not fit, did you mean "bfloat16"\?; allowed: auto, bfloat16, float16, float32$/,
      /^run\.yaml:4: evall: is not a key, did you mean "eval"\?/,
      /^run\.yaml:6: eval\.dataset: .*missing\.txt does not exist; allowed: /,
      /^run\.yaml:7: eval\.seq_len: 1 does not fit; allowed: a whole number from 2 to 1048576$/,
      /^run\.yaml:8: eval\.batch_size: "2" does not fit; allowed: a whole number/,
      /^run\.yaml:9: eval\.metrics\[1\]: "tpo1" does not fit, did you mean "top1"\?; allowed: nll, kl, top1, logit_diff, accuracy$/,
      /^run\.yaml:11: ablation\.sweep: "head" does not fit, did you mean "heads"\?/,
      /^run\.yaml:12: ablation\.layers\[1\]: 4.5 does not fit; allowed: all, or different layer numbers/,
      /^run\.yaml:14: ablation\.targets\[0\]\.kind: "heads" does not fit, did you mean "head"\?/,
      /^run\.yaml:15: ablation\.targets\[1\]\[0\]\.heads: an empty list does not fit/,
      /^run\.yaml:16: ablation\.targets\[1\]\[1\]\.layer: 1\.5 does not fit/,
      /^run\.yaml:16: ablation\.targets\[1\]\[1\]\.mod: is not a key, did you mean "mode"\?/,
      /^run\.yaml:17: stop\.top: 0 does not fit/,
    ];
    for (const line of expected) expect(lines).toContainEqual(expect.stringMatching(line));
    expect(lines).toHaveLength(expected.length);
  });

  it.each([
    [
      "an unquoted commit that YAML reads as a number",
      "model: {name: a/b, revision: 1234567}",
      /model\.revision: 1234567 does/,
    ],
    [
      "a race for nothing",
      `${MODEL}stop: {confidence: 0.9}`,
      /stop\.top: is missing: say how many of the largest/,
    ],
    [
      "a race for both ends",
      `${MODEL}stop: {top: 1, bottom: 1}`,
      /stop\.bottom: cannot be combined with top/,
    ],
    ["infinity", `${MODEL}stop: {top: 1, tolerance: .inf}`, /stop\.tolerance: Infinity does not fit/],
    [
      "an empty list of layers",
      `${MODEL}ablation: {layers: []}`,
      /ablation\.layers: an empty list does not fit/,
    ],
    ["a layer listed twice", `${MODEL}ablation: {layers: [1, 2, 1]}`, /layers\[2\]: 1 is listed twice/],
    [
      "a custom sweep of nothing",
      `${MODEL}ablation: {sweep: custom}`,
      /ablation\.sweep: custom has nothing to measure/,
    ],
    ["a target of nothing", `${MODEL}ablation: {targets: [[]]}`, /targets\[0\]: an empty list edits nothing/],
    [
      "a mode that a layer sweep ignores",
      `${MODEL}ablation: {mode: resample}`,
      /ablation\.mode: resample has no meaning.* allowed: zero, mean/,
    ],
    [
      "positions that a layer sweep ignores",
      `${MODEL}ablation: {positions: not_first}`,
      /ablation\.positions: /,
    ],
    [
      "layers that a custom sweep ignores",
      `${MODEL}ablation: {sweep: custom, layers: [1], targets: [{kind: mlp, layer: 1}]}`,
      /ablation\.layers: has no effect/,
    ],
    [
      "a batch larger than a frame",
      `${MODEL}eval: {seq_len: 1048576, batch_size: 8}`,
      /eval\.batch_size: a batch of 8 blocks/,
    ],
    [
      "add at the writes",
      `${MODEL}ablation: {directions: [{path: d.safetensors, op: add, at: writes}]}`,
      /directions\[0\]\.at: writes does/,
    ],
    [
      "code from a repository without the flag",
      "model: {name: a/b, trust_remote_code: true}",
      /--trust-remote-code/,
    ],
    ["a root that is no section", "- a\n", /run\.yaml:1: a list does not fit/],
    ["an empty file", "", /run\.yaml:1: model: is missing/],
    ["two documents", `${MODEL}---\n${MODEL}`, /run\.yaml:2: .*document/],
    ["a syntax error", "model: {name: a\neval: [", /^run\.yaml:\d+: /],
    ["a control character in a path", 'model: {name: "./a\\0b"}', /contains control characters/],
    [
      "a shipped file outside",
      `${MODEL}eval: {dataset: "shipped:../README.txt"}`,
      /leaves the directory of shipped/,
    ],
    [
      "a dataset that is neither",
      `${MODEL}eval: {dataset: wikitxt}`,
      /"wikitxt" is not a dataset, did you mean "wikitext"/,
    ],
    [
      "a dataset with two sources",
      `${MODEL}eval: {dataset: {path: a, name: b}}`,
      /needs one of path and name/,
    ],
    [
      "a mistyped key of a dataset",
      `${MODEL}eval: {dataset: {name: a, spilt: test}}`,
      /eval\.dataset\.spilt: .*"split"/,
    ],
    [
      "output where one stands",
      `${MODEL}output: {dir: .}`,
      /output\.dir: .* contains your working directory/,
    ],
  ])("refuses %s", (_, text, line) => {
    const { code, lines } = refusal(text);
    expect(code).toBe("config_invalid");
    expect(lines).toContainEqual(expect.stringMatching(line));
  });

  it("tells a missing text and a missing model by code", () => {
    expect(refusal(`${MODEL}eval: {dataset: txet.txt}`)).toEqual({
      code: "input_missing",
      lines: [
        expect.stringMatching(
          /^run\.yaml:2: eval\.dataset: .*txet\.txt does not exist, did you mean "text\.txt"\?/,
        ),
      ],
    });
    for (const name of [
      "./modl",
      "empty",
      "~/no-such-model-here",
      "builtin:smollm",
      "no such id",
      "text.txt/x/y",
    ]) {
      expect(refusal(`model: {name: "${name}"}`).code).toBe("model_not_found");
    }
    expect(() => loadConfig("nowhere.yaml", { cwd })).toThrow(
      expect.objectContaining({ code: "input_missing" }),
    );
  });

  it("refuses overlapping edits before a model is known", () => {
    const { code, lines } = refusal(`${MODEL}ablation:
  sweep: custom
  targets:
    - [{kind: head, layer: 3, heads: [1, 2]}, {kind: head, layer: 3, heads: [2], mode: mean}]
    - [{kind: head, layer: 3, heads: [1]}, {kind: attn, layer: 3}]
    - [{kind: layer, layer: 3}, {kind: mlp, layer: 3}]
`);
    expect(code).toBe("conditions_overlap");
    expect(lines).toEqual([
      expect.stringMatching(
        /^run\.yaml:5: .*L3\.head\[1,2\]\.zero and L3\.head\[2\]\.mean overlap: both edit head 2/,
      ),
      expect.stringMatching(/^run\.yaml:6: .*L3\.head\[1\]\.zero and L3\.attn\.zero overlap/),
      expect.stringMatching(/^run\.yaml:7: .*L3\.layer\.skip and L3\.mlp\.zero overlap/),
    ]);
  });
});

describe("sweep: pairs", () => {
  const complaints = (ablation: string, rest = ""): string => {
    try {
      parseConfig(`model: {name: org/model}\nablation: ${ablation}\n${rest}`, "run.yaml", { cwd });
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };

  it("needs an earlier run and how many of its conditions, and nothing else", () => {
    const run = join(cwd, "earlier");
    mkdirSync(run, { recursive: true });
    writeFileSync(join(run, "results.sqlite"), "");
    expect(complaints("{sweep: pairs}")).toMatch(/ablation.from: is missing[\s\S]*ablation.top: is missing/);
    expect(complaints("{sweep: pairs, from: earlier, top: 1}")).toContain("a whole number from 2 to 400");
    expect(complaints("{sweep: pairs, from: earlyer, top: 3}")).toMatch(
      /earlyer does not exist.*did you mean.*earlier/i,
    );
    expect(complaints("{sweep: pairs, from: ., top: 3}")).toContain("has no results.sqlite");
    expect(complaints("{sweep: heads, from: earlier, top: 3}")).toMatch(
      /ablation.from: works only with sweep: pairs[\s\S]*ablation.top: works only/,
    );
    expect(complaints("{sweep: pairs, from: earlier, top: 3, mode: mean}")).toContain(
      "ablation.mode: has no effect with sweep: pairs",
    );
    expect(complaints("{sweep: pairs, from: earlier, top: 3}", "stop: {top: 2}")).toContain(
      "stop: cannot be combined with sweep: pairs",
    );
    const config = parseConfig(
      "model: {name: org/model}\nablation: {sweep: pairs, from: earlier, top: 3}",
      "r",
      {
        cwd,
      },
    );
    expect(config.ablation).toMatchObject({ from: run, top: 3 });
    // The conditions are its content, and part of the identity themselves.
    expect(JSON.stringify(identityConfig(config))).not.toContain("earlier");
  });
});

describe("hostile YAML", () => {
  it("refuses aliases that grow exponentially, at once", () => {
    const levels = Array.from(
      { length: 30 },
      (_, i) => `  - &a${i + 1} [${Array(10).fill(`*a${i}`).join(", ")}]`,
    );
    const started = performance.now();
    const { code, lines } = refusal(`a:\n  - &a0 [x, x]\n${levels.join("\n")}\n`);
    expect(performance.now() - started).toBeLessThan(20_000);
    expect(code).toBe("config_invalid");
    expect(lines).toContainEqual(expect.stringMatching(/aliases stand for too much; allowed: 10000 values/));
  });

  it.each([
    [
      "an alias of itself",
      `${MODEL}eval: &a {metrics: *a}`,
      /run\.yaml:2: eval\.metrics: "\*a" contains itself/,
    ],
    ["a cycle through a list", `${MODEL}ablation: {targets: &t [[*t]]}`, /contains itself/],
    ["an alias of nothing", `${MODEL}eval: *nothing`, /run\.yaml:2: /],
    ["__proto__", `${MODEL}__proto__: {polluted: 1}`, /run\.yaml:2: __proto__: is not a key/],
    [
      "constructor",
      `${MODEL}eval: {constructor: {prototype: {polluted: 1}}}`,
      /eval\.constructor: is not a key/,
    ],
    ["a key written twice", `${MODEL}eval: {seed: 1, seed: 2}`, /run\.yaml:2: eval\.seed: is written twice/],
    ["a list as a key", `${MODEL}? [a]\n: b`, /run\.yaml:2: .*keys must be strings/],
    ["an unknown tag", `${MODEL}eval: !!js/function "x"`, /run\.yaml:2: Unresolved tag/],
    ["a merge key", `${MODEL}eval:\n  <<: {seed: 1}`, /eval\.<<: is not a key/],
    ["nesting without end", `${MODEL}eval: ${"[".repeat(5000)}${"]".repeat(5000)}`, /nested too deeply/],
  ])("refuses %s", (_, text, line) => {
    const { code, lines } = refusal(text);
    expect(code).toBe("config_invalid");
    expect(lines).toContainEqual(expect.stringMatching(line));
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });

  it("reads an honest alias", () => {
    expect(parse(`${MODEL}eval: {dataset: &t text.txt, calibration: *t}`).eval.calibration).toBe(
      join(cwd, "text.txt"),
    );
  });

  it("refuses bytes that are not text", () => {
    writeFileSync(join(cwd, "bytes.yaml"), Buffer.from([0x6d, 0xff, 0xfe, 0x00]));
    expect(() => loadConfig("bytes.yaml", { cwd })).toThrow(/bytes\.yaml: is not UTF-8/);
  });
});

describe("--set", () => {
  it("overrides, adds sections, reaches into lists; the last of two holds", () => {
    const config = parse(`${MODEL}ablation: {sweep: custom, targets: [{kind: mlp, layer: 1}]}`, [
      "eval.max_batches=null",
      "stop.top=3",
      "ablation.targets[0].layer=7",
      "eval.dataset=text.txt",
      "eval.seed=1",
      "eval.seed=2",
      "eval.metrics=[kl, top1]",
      "model.name=c/d",
    ]);
    expect(config.eval).toMatchObject({ max_batches: null, dataset: join(cwd, "text.txt"), seed: 2 });
    expect(config.eval.metrics).toEqual(["nll", "kl", "top1"]);
    expect(config.stop?.top).toBe(3);
    expect(config.ablation.targets[0]?.[0]).toMatchObject({ layer: 7 });
    expect(config.model.name).toBe("c/d");
  });

  it("gives a file that lacks everything all it needs", () => {
    expect(parse("", ["model.name=a/b"]).model.name).toBe("a/b");
  });

  it.each([
    [
      "eval.max_batches=-1",
      /^--set eval\.max_batches=-1: eval\.max_batches: -1 does not fit; allowed: a whole number/,
    ],
    [
      "eval.max_batchs=1",
      /^--set eval\.max_batchs=1: eval\.max_batchs: is not a key, did you mean "max_batches"\?/,
    ],
    ["eval.seed", /^--set eval\.seed: is not an assignment; allowed: key=value/],
    ["=1", /is not an assignment/],
    ["eval..seed=1", /is not an assignment/],
    ["eval.seed.x=1", /eval\.seed: is a value, and has no keys/],
    ["ablation.targets[0].layer=1", /ablation\.targets: has no entry 0/],
    ["eval[0]=1", /eval: has no "0"; allowed: a key behind a dot/],
    ["eval.__proto__.polluted=1", /eval\.__proto__\.polluted: is not a key/],
    ["eval.metrics=[", /^--set eval\.metrics=\[: /],
    ["eval.metrics=*a", /^--set eval\.metrics=\*a: /],
  ])("refuses %s", (set, line) => {
    const { code, lines } = refusal(`${MODEL}eval: {seed: 0}`, [set]);
    expect(code).toBe("config_invalid");
    expect(lines).toContainEqual(expect.stringMatching(line));
    expect(({} as { polluted?: number }).polluted).toBeUndefined();
  });
});

describe("paths", () => {
  it("are relative to where one stands; shipped: to the package", () => {
    const config = parse(
      `model: {name: model}\neval: {dataset: ./text.txt, calibration: "shipped:corpora/northanger-abbey.txt"}`,
    );
    expect(config.model.name).toBe(join(cwd, "model"));
    expect(config.eval.dataset).toBe(join(cwd, "text.txt"));
    expect(config.eval.calibration).toMatch(/^\/.*\/configs\/corpora\/northanger-abbey\.txt$/);
    expect(parse(`model: {name: ${join(cwd, "model")}}\n`).model.name).toBe(join(cwd, "model"));
  });

  it("trusts a repository's code only when pinned and told to", () => {
    const pinned = `model: {name: a/b, trust_remote_code: true, revision: ${"0123456789".repeat(4)}}`;
    expect(() => parse(pinned.replace(/, revision.*}/, "}"))).toThrow();
    const trusting = (text: string) => parseConfig(text, "run.yaml", { cwd, trustRemoteCode: true });
    expect(() => trusting(pinned.replace(/, revision.*}/, ", revision: main}"))).toThrow(/not pinned/);
    expect(
      trusting(pinned.replace("0123456789".repeat(4), `"${"0123456789".repeat(4)}"`)).model.trust_remote_code,
    ).toBe(true);
  });

  it("keep out of other runs, whichever way they are written", () => {
    const results = join(cwd, "results");
    mkdirSync(join(results, "old"), { recursive: true });
    writeFileSync(join(results, "old", "results.sqlite"), "");
    symlinkSync("old", join(results, "new"));
    symlinkSync("nothing", join(results, "dangling"));
    symlinkSync(results, join(cwd, "elsewhere"));
    const into = (dir: string) => refusal(`${MODEL}output: {dir: ${dir}}`);
    expect(into("results/new")).toEqual({
      code: "other_run",
      lines: [
        expect.stringMatching(
          /output\.dir: goes through the symbolic link .*new into the run .*old; allowed/,
        ),
      ],
    });
    expect(into("results/new/plots").code).toBe("other_run");
    expect(into("results/old/inner")).toMatchObject({
      code: "other_run",
      lines: [expect.stringMatching(/lies inside the run/)],
    });
    expect(into("results/dangling").lines[0]).toMatch(/symbolic link to nothing/);
    expect(into("text.txt").lines[0]).toMatch(/is a file/);
    expect(into("text.txt/x").lines[0]).toMatch(/is a file/);
    // Its own directory again, and a link to the directory that holds the runs, are no other run.
    expect(parse(`${MODEL}output: {dir: results/old}`).output.dir).toBe(join(results, "old"));
    expect(parse(`${MODEL}output: {dir: elsewhere/old}`).output.dir).toBe(join(cwd, "elsewhere/old"));
  });
});

/** mulberry32: reproducible configs, a different one a seed. */
function generator(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (bound: number) => Math.floor(next() * bound);
  const pick = <T>(values: readonly T[]): T => values[below(values.length)] as T;
  return {
    next,
    below,
    pick,
    maybe: <T>(key: string, value: () => T) => (next() < 0.5 ? { [key]: value() } : {}),
  };
}

/** Some valid config, as a person may write it. */
function someConfig(seed: number): unknown {
  const { below, pick, maybe, next } = generator(seed);
  const numbers = () => [...new Set(Array.from({ length: 1 + below(4) }, () => below(30)))];
  const direction = () => ({
    path: "d.safetensors",
    op: pick(["project_out", "add"]),
    ...maybe("layers", () => pick<unknown>(["all", numbers(), null])),
    ...maybe("coefficient", () => next() * 4 - 2),
    ...maybe("positions", () => pick(["all", "not_first"])),
  });
  const edit = () => ({
    ...maybe("mode", () => pick(["zero", "mean"])),
    ...maybe("positions", () => pick(["all", "not_first"])),
  });
  const spec = (layer: number) =>
    pick<() => unknown>([
      () => ({ kind: "head", layer, heads: numbers(), ...edit() }),
      () => ({ kind: "kv_group", layer, groups: numbers(), ...edit() }),
      () => ({ kind: pick(["attn", "mlp"]), layer, ...edit() }),
      () => ({ kind: "layer", layer }),
      () => ({ kind: "direction", ...direction() }),
    ])();
  const sweep = pick(["layers", "heads", "kv_groups", "mlp", "attn", "custom"]);
  return {
    model: {
      name: pick(["org/model", "./model", "builtin:smollm2-135m"]),
      ...maybe("revision", () => pick(["main", "12345", "null", "1e3", "0x10", "yes # no", "a: b"])),
      ...maybe("dtype", () => pick(["auto", "bfloat16", "float16", "float32"])),
      ...maybe("threads", () => 1 + below(8)),
    },
    ...maybe("eval", () => ({
      ...maybe("dataset", () =>
        pick<unknown>([
          "wikitext",
          "text.txt",
          { name: "a/b", column: "t" },
          { path: "./empty", split: "x" },
        ]),
      ),
      ...maybe("calibration", () => pick<unknown>([null, "text.txt"])),
      ...maybe("seq_len", () => 2 + below(1000)),
      ...maybe("max_batches", () => pick([null, 1 + below(100)])),
      ...maybe("add_bos", () => pick<unknown>(["auto", true, false])),
      ...maybe("seed", () => below(2 ** 31)),
      ...maybe("metrics", () => pick([[], ["top1"], ["kl", "nll"]])),
    })),
    ablation: {
      sweep,
      ...(sweep === "layers" ? {} : edit()),
      ...(sweep === "custom" ? {} : maybe("layers", () => pick<unknown>(["all", numbers()]))),
      ...(sweep === "custom"
        ? { targets: [spec(1)] }
        : maybe("targets", () => [spec(1), [spec(2), spec(3)], [spec(4)]])),
      ...maybe("directions", () => [direction(), direction()]),
    },
    ...maybe("stop", () => ({
      [below(2) ? "top" : "bottom"]: 1 + below(9),
      ...maybe("confidence", () => 0.5 + next() * 0.49),
    })),
    ...maybe("output", () =>
      maybe("dir", () => pick(["results/x", "with space: and #", "/tmp/sparkablate/none"])),
    ),
  };
}

describe("what is recorded", () => {
  it("parses back to the same config", () => {
    for (let seed = 0; seed < 120; seed++) {
      const config = parse(JSON.stringify(someConfig(seed)));
      expect(parseConfig(resolvedYaml(config), "elsewhere.yaml", { cwd: "/tmp" })).toEqual(config);
      expect(JSON.parse(JSON.stringify(config))).toEqual(config);
    }
  });

  it("has no output, names or paths in its identity, and everything else", () => {
    const text = (name: string, file: string, dir: string, rest = "") =>
      `model: {name: ${name}}\neval: {dataset: ${file}${rest}}\nablation: {directions: [{path: d.safetensors, op: add}]}\noutput: {dir: ${dir}}`;
    const identity = (yaml: string) => JSON.stringify(identityConfig(parse(yaml)));
    const one = identity(text("a/b", "text.txt", "x"));
    expect(identity(text("./model", "wikitext", "y"))).toBe(one);
    expect(one).not.toMatch(/text\.txt|a\/b|safetensors|output/);
    expect(identity(text("a/b", "text.txt", "x", ", seed: 1"))).not.toBe(one);
    expect(identity(text("a/b", "text.txt", "x").replace("op: add", "op: add, coefficient: 2"))).not.toBe(
      one,
    );
  });
});

it("every shipped config parses from anywhere and has at least 32 blocks", () => {
  const shipped = new URL("../../../configs/", import.meta.url).pathname;
  const files = readdirSync(shipped).filter((name) => name.endsWith(".yaml"));
  expect(files).toEqual(
    expect.arrayContaining(["smoke_test.yaml", "layer_sweep.yaml", "head_sweep.yaml", "custom_targets.yaml"]),
  );
  for (const file of files) {
    const { eval: evaluation } = loadConfig(join(shipped, file), { cwd });
    expect((evaluation.max_batches ?? 0) * evaluation.batch_size).toBeGreaterThanOrEqual(32);
  }
});

describe("a list of thousands of targets, which is read in pieces", () => {
  const targets = Array.from({ length: 3_000 }, (_, index) =>
    index % 3 === 0
      ? `    - [{kind: head, layer: ${index}, heads: [1, 2]}, {kind: mlp, layer: 0, mode: mean}]`
      : index % 3 === 1
        ? `    - kind: layer\n      layer: ${index}`
        : `    - - {kind: attn, layer: ${index}}\n      - kind: mlp\n        layer: ${index}`,
  );
  const text = (items: readonly string[], end = "") =>
    `model: {name: builtin:smollm2-135m}\nablation:\n  sweep: custom\n  targets:\n${items.join("\n")}\n${end}`;
  const fails = (broken: string): string => {
    try {
      parseConfig(broken, "c.yaml");
    } catch (error) {
      return (error as Error).message;
    }
    return "";
  };
  const lineOf = (all: string, what: string): number => all.slice(0, all.indexOf(what)).split("\n").length;

  it("gives what it gives as a whole, and is written as a whole would be", () => {
    const pieces = parseConfig(text(targets, "stop: null\n"), "c.yaml");
    // Comments keep it in one piece, or in pieces behind the first item.
    const [first = "", ...rest] = targets;
    const whole = parseConfig(text([targets.join("\n    # a word\n")], "stop: null\n"), "c.yaml");
    const both = parseConfig(text([first, "    # a word", ...rest], "stop: null\n"), "c.yaml");
    expect(both).toEqual(whole);
    expect(pieces).toEqual(whole);
    const plain = { lineWidth: 0, aliasDuplicateObjects: false };
    expect(resolvedYaml(pieces)).toBe(stringify(pieces, plain));
    expect(parseConfig(resolvedYaml(pieces), "c.yaml")).toEqual(pieces);
  });

  it("tells every problem at its line, within the list and behind it", () => {
    const wrong = text(targets, "nonsense: 1\n")
      .replace("layer: 2500\n", "layer: -7.5\n")
      .replace("{kind: attn, layer: 1001}", "{kind: attn, layer: 1001, layer: 2}");
    const said = fails(wrong);
    expect(said).toContain(`c.yaml:${lineOf(wrong, "layer: -7.5")}: ablation.targets[2500].layer:`);
    expect(said).toContain(
      `c.yaml:${lineOf(wrong, "layer: 1001, layer: 2")}: ablation.targets[1001][0].layer:`,
    );
    expect(said).toContain(`c.yaml:${lineOf(wrong, "nonsense")}: nonsense:`);
  });

  it("tells a syntax error at its line", () => {
    const wrong = text(targets).replace(
      "heads: [1, 2]}, {kind: mlp, layer: 0, mode: mean}]",
      "heads: [1, 2}",
    );
    expect(fails(wrong)).toMatch(
      new RegExp(`^c\\.yaml:${lineOf(wrong, "[1, 2}")}: .*allowed: plain YAML`, "m"),
    );
  });
});
