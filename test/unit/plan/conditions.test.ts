import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { configFor } from "../../../src/cli/init.ts";
import { canonical, conditionId } from "../../../src/conditions/ids.ts";
import { parseConfig } from "../../../src/config/load.ts";
import { SparkablateError } from "../../../src/errors.ts";
import { conditionColumns, type DirectionFacts, planConditions } from "../../../src/plan/conditions.ts";
import { meanSites } from "../../../src/plan/needs.ts";
import type { SiteKind } from "../../../src/protocol/catalog.ts";
import { condition, type Intervention, type ModelMap, modelMap } from "../../../src/protocol/messages.ts";

const ALL: SiteKind[] = ["head", "kv_group", "attn", "mlp", "layer", "direction"];
const DENSE = { sites: ALL, n_heads: 6, n_kv_heads: 2, n_neurons: 64, d_head: 16, modules: {} };
/** A layer as a state-space model has it: no attention. */
const HEADLESS = { ...DENSE, sites: ["mlp", "layer", "direction"] as SiteKind[], n_heads: 0, n_kv_heads: 0 };

function mapOf(layers: ModelMap["layers"]): ModelMap {
  const facts = {
    model_type: "llama",
    d_model: 96,
    vocab_size: 100,
    max_positions: 2048,
    parameters: 1,
    discovered: null,
  };
  return modelMap.parse({ ...facts, n_layers: layers.length, layers });
}
const MAP = mapOf([DENSE, DENSE, HEADLESS, DENSE]);

let cwd: string;
let directions: Map<string, DirectionFacts>;
beforeAll(() => {
  cwd = mkdtempSync(join(tmpdir(), "sparkablate-conditions-"));
  const facts: Record<string, DirectionFacts> = {
    "a.safetensors": { sha256: "a1b2c3d4".repeat(8), layer: 1 },
    "b.safetensors": { sha256: "0f".repeat(32), layer: null },
  };
  for (const name of Object.keys(facts)) writeFileSync(join(cwd, name), "");
  directions = new Map(Object.entries(facts).map(([name, fact]) => [join(cwd, name), fact]));
});
afterAll(() => rmSync(cwd, { recursive: true }));

const plan = (ablation: string, rest = "", map = MAP) =>
  planConditions(
    parseConfig(`model: {name: org/model}\nablation: ${ablation}\n${rest}`, "run.yaml", { cwd }),
    map,
    directions,
  );
const ids = (ablation: string) => plan(ablation).conditions.map(({ id }) => id);
const custom = (...targets: string[]) => `{sweep: custom, targets: [${targets.join(", ")}]}`;

function refusal(ablation: string, rest = ""): { code: string; lines: string[] } {
  try {
    plan(ablation, rest);
  } catch (error) {
    if (!(error instanceof SparkablateError)) throw error;
    return { code: error.code, lines: error.message.split("\n") };
  }
  throw new Error(`accepted: ${ablation}`);
}

describe("several modes", () => {
  it("make each of a sweep's conditions once a mode", () => {
    expect(ids("{sweep: heads, mode: [mean, zero], layers: [1]}")).toEqual([
      "baseline",
      ...["zero", "mean"].flatMap((mode) => [0, 1, 2, 3, 4, 5].map((head) => `L1.head[${head}].${mode}`)),
    ]);
  });

  it("skip a layer once, and say so", () => {
    const { conditions, notices } = plan("{sweep: layers, mode: [zero, mean]}");
    expect(conditions.map(({ id }) => id)).toEqual(ids("{sweep: layers}"));
    expect(notices).toEqual([
      "ablation.mode lists zero, mean: of a list, a layer is skipped, once; for its mean write mode: mean",
    ]);
  });

  it("replace each layer by its mean where mode says that alone", () => {
    const { conditions } = plan("{sweep: layers, mode: mean, layers: [0, 2]}");
    expect(conditions.map(({ id }) => id)).toEqual(["baseline", "L0.layer.mean", "L2.layer.mean"]);
    expect(meanSites(conditions)).toEqual([
      { kind: "layer", layer: 0, positions: "all" },
      { kind: "layer", layer: 2, positions: "all" },
    ]);
  });

  it("make a target once a mode, unless it names its own", () => {
    const targets = [
      "[{kind: head, layer: 0, heads: [1]}, {kind: mlp, layer: 1}]",
      "[{kind: attn, layer: 3}, {kind: mlp, layer: 3, mode: zero}]",
      "{kind: mlp, layer: 0, mode: mean}",
      "{kind: layer, layer: 1}",
    ];
    expect(ids(`{mode: [zero, mean], sweep: custom, targets: [${targets.join(", ")}]}`)).toEqual([
      "baseline",
      "L0.head[1].zero + L1.mlp.zero",
      "L0.head[1].mean + L1.mlp.mean",
      "L3.attn.zero + L3.mlp.zero",
      "L3.attn.mean + L3.mlp.zero",
      "L0.mlp.mean",
      "L1.layer.skip",
    ]);
    expect(ids(custom("{kind: mlp, layer: 0, mode: [zero, mean]}"))).toEqual([
      "baseline",
      "L0.mlp.zero",
      "L0.mlp.mean",
    ]);
  });

  it("are one, where a list names one; none twice; and no race", () => {
    expect(ids("{sweep: mlp, mode: [mean], layers: [0]}")).toEqual(["baseline", "L0.mlp.mean"]);
    expect(refusal("{sweep: mlp, mode: [zero, mean, zero]}").lines).toEqual([
      "run.yaml:2: ablation.mode[2]: zero is listed twice: keep one",
    ]);
    expect(refusal("{sweep: mlp, mode: [zero, meen]}").lines[0]).toMatch(
      /ablation\.mode\[1\]: "meen" does not fit, did you mean "mean"\?/,
    );
    expect(refusal("{sweep: mlp, mode: []}").lines[0]).toMatch(/ablation\.mode: .*or a list of them$/);
    expect(refusal("{sweep: mlp, mode: [zero, mean]}", "stop: {top: 1}").lines).toEqual([
      "run.yaml:3: stop: cannot be combined with several modes, where every condition is needed on every block; allowed: null",
    ]);
  });
});

describe("sweeps", () => {
  it("have one condition a site, the baseline first", () => {
    expect(ids("{}")).toEqual([
      "baseline",
      "L0.layer.skip",
      "L1.layer.skip",
      "L2.layer.skip",
      "L3.layer.skip",
    ]);
    expect(ids("{sweep: mlp, mode: mean, positions: not_first, layers: [3, 1]}")).toEqual([
      "baseline",
      "L1.mlp.mean@not_first",
      "L3.mlp.mean@not_first",
    ]);
    expect(ids("{sweep: attn, layers: [0]}")).toEqual(["baseline", "L0.attn.zero"]);
    expect(ids("{sweep: kv_groups, layers: [1]}")).toEqual([
      "baseline",
      "L1.kv_group[0].zero",
      "L1.kv_group[1].zero",
    ]);
    expect(ids("{sweep: heads}")).toHaveLength(1 + 3 * DENSE.n_heads);
  });

  it("say which layers they cannot edit, and refuse a list that names one", () => {
    expect(plan("{sweep: heads}").notices).toEqual([
      expect.stringMatching(/heads has nothing to edit in layer 2/),
    ]);
    expect(refusal("{sweep: heads, layers: [1, 2]}")).toEqual({
      code: "site_unsupported",
      lines: [
        expect.stringMatching(/^run\.yaml:2: ablation\.layers: sweep: heads has nothing to edit in layer 2/),
      ],
    });
    expect(() => plan("{sweep: heads}", "", mapOf([HEADLESS]))).toThrow(
      /heads finds nothing to edit in this model/,
    );
  });

  it("leave targets out, and say so", () => {
    const config = parseConfig(
      "model: {name: a/b}\nablation: {sweep: mlp, targets: [{kind: layer, layer: 3}]}",
      "run.yaml",
      { cwd },
    );
    const { conditions, notices } = planConditions(config, MAP);
    const swept = Array.from({ length: MAP.n_layers }, (_, layer) => `L${layer}.mlp.zero`);
    expect(conditions.map(({ id }) => id)).toEqual(["baseline", ...swept]);
    expect(notices).toEqual([
      "ablation.targets (1 entry): not measured, since ablation.sweep is mlp; set it to custom to measure them",
    ]);
    // A run of 0.1.0 measured both, and goes on as it began.
    for (const [stored, measured] of [
      [swept, swept],
      [
        [...swept, "L3.layer.skip"],
        [...swept, "L3.layer.skip"],
      ],
    ] as const) {
      const resumed = planConditions(config, MAP, new Map(), null, new Set(stored));
      expect(resumed.conditions.map(({ id }) => id)).toEqual(["baseline", ...measured]);
    }
  });

  it("a layer's zero is its skip, and nothing else is", () => {
    const [zero, skip] = ["zero", "skip"].map((mode) =>
      plan(`{sweep: custom, targets: [{kind: layer, layer: 3, mode: ${mode}}]}`),
    );
    expect(zero).toEqual(skip);
    expect(zero?.conditions.at(-1)).toEqual({
      id: "L3.layer.skip",
      interventions: [{ kind: "layer", layer: 3, mode: "skip" }],
    });
    expect(ids("{sweep: custom, targets: [{kind: layer, layer: 3, mode: mean}]}")).toEqual([
      "baseline",
      "L3.layer.mean",
    ]);
    expect(() => plan("{sweep: custom, targets: [{kind: layer, layer: 3, mode: patch}]}")).toThrow(
      /allowed: skip, mean, zero/,
    );
  });

  it("give conditions that the wire accepts, each id once", () => {
    for (const sweep of ["layers", "heads", "kv_groups", "mlp", "attn"]) {
      const { conditions } = plan(`{sweep: ${sweep}}`);
      for (const one of conditions) expect(condition.parse(one)).toEqual(one);
      expect(new Set(conditions.map(({ id }) => id)).size).toBe(conditions.length);
    }
  });
});

describe("ids", () => {
  it("do not depend on how or in which order a condition is written", () => {
    const joint = "L1.head[0,2,5].zero + L1.mlp.mean + L3.attn.zero + dir[a1b2c3d4].project_out";
    const { conditions, notices } = plan(
      custom(
        "[{kind: attn, layer: 3}, {kind: head, layer: 1, heads: [5, 0]}, {kind: mlp, layer: 1, mode: mean}, {kind: direction, path: a.safetensors, op: project_out}, {kind: head, layer: 1, heads: [2]}]",
        "[{kind: direction, path: a.safetensors, op: project_out, layers: all}, {kind: head, layer: 1, heads: [2, 0, 5]}, {kind: mlp, layer: 1, mode: mean}, {kind: attn, layer: 3}]",
      ),
    );
    expect(conditions.map(({ id }) => id)).toEqual(["baseline", joint]);
    expect(notices).toEqual([
      `ablation.targets[1] asks for ${joint} again (first: ablation.targets[0]); it is measured once`,
    ]);
  });

  it("show what is not the default of a direction", () => {
    const directionIds = (...written: string[]) =>
      ids(
        `{sweep: custom, directions: [${written.map((one) => `{path: a.safetensors, ${one}}`).join(", ")}]}`,
      ).slice(1);
    expect(
      directionIds(
        "op: project_out",
        "op: project_out, layers: [0, 1, 2, 3]",
        "op: project_out, at: stream",
        "op: project_out, layers: [3, 1], coefficient: 0.5, positions: not_first",
        "op: add",
        "op: add, layers: [0, 3], coefficient: -2",
      ),
    ).toEqual([
      "dir[a1b2c3d4].project_out",
      "dir[a1b2c3d4].project_out(layers=[0,1,2,3])", // not "all", which adds the embedding
      "dir[a1b2c3d4].project_out(at=stream)",
      "dir[a1b2c3d4].project_out(layers=[1,3],coefficient=0.5)@not_first",
      "dir[a1b2c3d4].add(layers=[1])",
      "dir[a1b2c3d4].add(layers=[0,3],coefficient=-2)",
    ]);
    expect(directionIds("op: project_out, at: stream, layers: [0, 1, 2, 3]")).toEqual([
      "dir[a1b2c3d4].project_out(at=stream)",
    ]);
  });

  it("are equal exactly where the canonical edits are, over all orders of random conditions", () => {
    const parts: Intervention[] = [
      { kind: "head", layer: 2, heads: [1], mode: "zero", positions: "all" },
      { kind: "head", layer: 10, heads: [0, 3], mode: "mean", positions: "all" },
      { kind: "head", layer: 10, heads: [2], mode: "mean", positions: "not_first" },
      { kind: "mlp", layer: 2, mode: "zero", positions: "not_first" },
      { kind: "layer", layer: 3, mode: "skip" },
      { kind: "kv_group", layer: 4, groups: [1], mode: "zero", positions: "all" },
    ];
    const seen = new Map<string, string>();
    for (let subset = 1; subset < 2 ** parts.length; subset++) {
      const chosen = parts.filter((_, index) => subset & (1 << index));
      const forward = canonical(chosen);
      for (let turn = 0; turn < chosen.length; turn++) {
        const turned = [...chosen.slice(turn), ...chosen.slice(0, turn)];
        expect(canonical(turned)).toEqual(forward);
        expect(canonical(turned.toReversed())).toEqual(forward);
      }
      const before = seen.get(conditionId(forward));
      expect(before).toBeUndefined();
      seen.set(conditionId(forward), JSON.stringify(forward));
    }
  });

  it("stay short enough for the wire", () => {
    const wide = mapOf(Array.from({ length: 80 }, () => ({ ...DENSE, n_heads: 64 })));
    const heads = `[${Array.from({ length: 64 }, (_, head) => head).join(", ")}]`;
    const targets = Array.from(
      { length: 80 },
      (_, layer) => `{kind: head, layer: ${layer}, heads: ${heads}}`,
    );
    const [, joint] = plan(custom(`[${targets.join(", ")}]`), "", wide).conditions;
    expect(joint?.id).toMatch(/^joint\[80 interventions, [0-9a-f]{16}\]$/);
    expect(condition.parse(joint)).toEqual(joint);
  });
});

describe("refusals", () => {
  it("come all at once, each at its line", () => {
    expect(
      refusal(
        `
  sweep: custom
  targets:
    - {kind: head, layer: 1, heads: [5, 6]}
    - {kind: layer, layer: 99}
    - [{kind: mlp, layer: 0},
       {kind: attn, layer: 2}]
    - [{kind: head, layer: 3, heads: [2]}, {kind: kv_group, layer: 3, groups: [0, 2]}]
  directions:
    - {path: b.safetensors, op: add}
    - {path: b.safetensors, op: project_out, layers: [4]}
`,
        "eval: {seq_len: 4096}",
      ),
    ).toEqual({
      code: "config_invalid",
      lines: [
        "run.yaml:14: eval.seq_len: 4096 does not fit; allowed: up to 2048 (the model's positions)",
        "run.yaml:5: ablation.targets[0].heads: head 6 does not exist; allowed: 0 to 5 (layer 1 has 6 heads)",
        "run.yaml:6: ablation.targets[1].layer: layer 99 does not exist; allowed: 0 to 3 (the model has 4 layers)",
        "run.yaml:8: ablation.targets[2][1].kind: layer 2 has no site attn; allowed: mlp, layer, direction",
        "run.yaml:9: ablation.targets[3][1].groups: group 2 does not exist; allowed: 0 to 1 (layer 3 has 2 groups)",
        "run.yaml:9: ablation.targets[3]: L3.head[2].zero and L3.kv_group[0,2].zero overlap: both edit head 2: remove them from one",
        expect.stringMatching(
          /^run\.yaml:11: ablation\.directions\[0\]\.layers: is missing, and .*b\.safetensors records no layer/,
        ),
        "run.yaml:12: ablation.directions[1].layers: layer 4 does not exist; allowed: 0 to 3 (the model has 4 layers)",
      ],
    });
  });

  const HEAD = "{kind: head, layer: 0, heads: [4]}";
  const A = "kind: direction, path: a.safetensors";
  const B = "kind: direction, path: b.safetensors";
  it.each([
    ["a head in a kv_group", `${HEAD}, {kind: kv_group, layer: 0, groups: [1]}`, /both edit head 4/],
    [
      "a kv_group and attn",
      "{kind: kv_group, layer: 0, groups: [1]}, {kind: attn, layer: 0}",
      /groups are part of attn/,
    ],
    ["one mlp twice", "{kind: mlp, layer: 0}, {kind: mlp, layer: 0, mode: mean}", /the same site twice/],
    [
      "a skipped layer and a direction on it",
      `{kind: layer, layer: 0}, {${A}, op: project_out, layers: [0, 1]}`,
      /the layer is skipped/,
    ],
    [
      "a skipped layer and a direction everywhere",
      `{${A}, op: project_out}, {kind: layer, layer: 0}`,
      /the layer is skipped/,
    ],
    [
      "two projections, one of them partial",
      `{${A}, op: project_out}, {${B}, op: project_out, layers: [2], coefficient: 0.5}`,
      /set their coefficient to 1/,
    ],
    [
      "one projection twice",
      `{${A}, op: project_out}, {${A}, op: project_out, layers: [2]}`,
      /the same direction twice/,
    ],
    [
      "an order of stream edits",
      `{${A}, op: add}, {${B}, op: project_out, at: stream}`,
      /order of add and project_out would matter/,
    ],
    [
      "projections at different positions",
      `{${A}, op: project_out}, {${B}, op: project_out, positions: not_first}`,
      /give them the same positions/,
    ],
  ])("refuses %s", (_, specs, line) => {
    const { code, lines } = refusal(custom(`[${specs}]`));
    expect(code).toBe("conditions_overlap");
    expect(lines).toEqual([expect.stringMatching(line)]);
  });

  it.each([
    ["a head and the kv_group beside it", `${HEAD}, {kind: kv_group, layer: 0, groups: [0]}`],
    ["attn and mlp of one layer", "{kind: attn, layer: 0}, {kind: mlp, layer: 0}"],
    ["one site in two layers", "{kind: attn, layer: 0}, {kind: attn, layer: 1}"],
    [
      "a skipped layer and a direction elsewhere",
      `{kind: layer, layer: 0}, {${A}, op: project_out, layers: [1]}`,
    ],
    ["two full projections", `{${A}, op: project_out}, {${B}, op: project_out}`],
    [
      "partial projections in different layers",
      `{${A}, op: project_out, layers: [0], coefficient: 0.5}, {${B}, op: project_out, layers: [1]}`,
    ],
    ["a write and a stream edit", `{${A}, op: project_out}, {${B}, op: add, layers: [1]}`],
    ["two additions", `{${A}, op: add}, {${B}, op: add, layers: [1]}`],
  ])("accepts %s", (_, specs) => {
    expect(ids(custom(`[${specs}]`))).toHaveLength(2);
  });

  it("refuses a direction that was not read, and a top as large as the sweep", () => {
    const config = parseConfig(
      "model: {name: a/b}\nablation: {sweep: custom, directions: [{path: a.safetensors, op: add}]}",
      "run.yaml",
      { cwd },
    );
    expect(() => planConditions(config, MAP)).toThrow(expect.objectContaining({ code: "input_missing" }));
    expect(refusal("{}", "stop: {top: 4}").lines).toEqual([
      "run.yaml:3: stop.top: 4 does not fit; allowed: fewer than the 4 conditions",
    ]);
  });
});

it("gives rows the columns of a single intervention", () => {
  const columns = (written: string) => {
    const [, one] = plan(written).conditions;
    return one === undefined ? undefined : conditionColumns(one);
  };
  expect(conditionColumns({ id: "baseline", interventions: [] })).toEqual({
    kind: "baseline",
    layer: null,
    heads: null,
    mode: null,
  });
  expect(columns(custom("{kind: head, layer: 1, heads: [3, 2]}"))).toEqual({
    kind: "head",
    layer: 1,
    heads: [2, 3],
    mode: "zero",
  });
  expect(columns(custom("{kind: kv_group, layer: 1, groups: [1]}"))).toEqual({
    kind: "kv_group",
    layer: 1,
    heads: [1],
    mode: "zero",
  });
  expect(columns(custom("{kind: layer, layer: 1}"))).toEqual({
    kind: "layer",
    layer: 1,
    heads: null,
    mode: "skip",
  });
  expect(columns(custom("[{kind: mlp, layer: 1}, {kind: mlp, layer: 3}]"))).toEqual({
    kind: "joint",
    layer: null,
    heads: null,
    mode: null,
  });
  expect(columns("{sweep: custom, directions: [{path: a.safetensors, op: add}]}")).toEqual({
    kind: "direction",
    layer: 1,
    heads: null,
    mode: "add",
  });
  expect(columns("{sweep: custom, directions: [{path: a.safetensors, op: project_out}]}")).toEqual({
    kind: "direction",
    layer: null,
    heads: null,
    mode: "project_out",
  });
});

describe("init", () => {
  it.each(["layers", "heads", "kv_groups", "mlp", "attn"] as const)(
    "writes a config that plans: %s",
    (sweep) => {
      for (const map of [MAP, { ...MAP, max_positions: 64 }, { ...MAP, max_positions: null }]) {
        const text = configFor({ model: "builtin:smollm2-135m", map, sweep, run: "a: #b" });
        const config = parseConfig(text, "init.yaml", { cwd });
        expect(config.output.dir).toBe(join(cwd, "results/a: #b"));
        expect(planConditions(config, map).conditions.length).toBeGreaterThan(1);
      }
    },
  );

  it("offers targets that hold once they are uncommented", () => {
    const text = configFor({ model: "org/model", map: MAP, sweep: "mlp", run: "x" });
    const uncommented = text
      .replace("sweep: mlp", "sweep: custom")
      .replace("  # targets:", "  targets:")
      .replaceAll("  #   - ", "    - ");
    const offered = text.split("\n").filter((line) => line.startsWith("  #   - ")).length;
    expect(offered).toBeGreaterThan(1);
    const { conditions } = planConditions(parseConfig(uncommented, "init.yaml", { cwd }), MAP);
    expect(conditions).toHaveLength(1 + offered);
  });
});

describe("sweep: pairs", () => {
  const edit = (layer: number, index: number): Intervention => ({
    kind: "head",
    layer,
    heads: [index],
    mode: "mean",
    positions: "not_first",
  });
  const ranked: Intervention[] = [
    edit(3, 1),
    { kind: "mlp", layer: 2, mode: "zero", positions: "all" },
    edit(0, 5),
    edit(0, 2),
    { kind: "attn", layer: 0, mode: "zero", positions: "all" },
    {
      kind: "direction",
      op: "project_out",
      at: "writes",
      layers: "all",
      coefficient: 1,
      positions: "all",
      sha256: "a".repeat(64),
    },
  ];
  const pairs = (more: string, components = ranked) => {
    const run = join(cwd, "heads");
    mkdirSync(run, { recursive: true });
    writeFileSync(join(run, "results.sqlite"), "");
    const text = `model: {name: org/model}\nablation: {sweep: pairs, from: heads, ${more}}`;
    return planConditions(parseConfig(text, "run.yaml", { cwd }), MAP, new Map(), { components });
  };
  const ids = ({ conditions }: ReturnType<typeof pairs>) => conditions.map(({ id }) => id);

  it("measures the largest effects alone, with their own modes, and every two together", () => {
    expect(ids(pairs("top: 3"))).toEqual([
      "baseline",
      "L3.head[1].mean@not_first",
      "L2.mlp.zero",
      "L0.head[5].mean@not_first",
      "L2.mlp.zero + L3.head[1].mean@not_first",
      "L0.head[5].mean@not_first + L3.head[1].mean@not_first",
      "L0.head[5].mean@not_first + L2.mlp.zero",
    ]);
    expect(ids(pairs("top: 2, layers: [0]"))).toEqual([
      "baseline",
      "L0.head[5].mean@not_first",
      "L0.head[2].mean@not_first",
      "L0.head[2,5].mean@not_first",
    ]);
  });

  it("leaves out, and names, pairs that cannot be one condition", () => {
    const { conditions, notices } = pairs("top: 5");
    expect(conditions).toHaveLength(1 + 5 + 10 - 2);
    expect(notices.join()).toMatch(
      /leaves out 2 of 10 pairs: .*L0\.attn\.zero.* overlap: heads are part of attn/,
    );
  });

  it("refuses more than the earlier run offers, and sites that the model lacks", () => {
    expect(() => pairs("top: 6")).toThrow(/ablation.top: 6 does not fit; allowed: from 2 to 5 /);
    expect(() => pairs("top: 2", [edit(9, 0), edit(0, 0)])).toThrow(/ablation.from: layer 9 does not exist/);
  });
});

it("init says what each sweep costs: a condition runs the layers from its own up, and the head", () => {
  const text = configFor({ model: "org/model", map: MAP, sweep: "mlp", run: "x" });
  // The head's weights among those that a token meets: 4 layers of q, k, v, o and three of 96 × 64.
  const head = 96 * 100;
  const share = head / (head + 4 * (2 * 96 * 16 * (6 + 2) + 3 * 96 * 64));
  const passes = 16 * ((1 + (4 + 3 + 2 + 1) / 4) * (1 - share) + 5 * share);
  expect(text).toContain(`mlp (4; ${Math.round(passes)} passes)`);
  // The third layer has no heads.
  expect(text).toContain(" heads (18; ");
});
