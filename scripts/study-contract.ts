/**
 * Writes test/contract/statistics.json and sampling.json: what the controller makes of sums, and of token ids. Both
 * languages read them (test/contract/study.test.ts, test/python/study). Floats are hexadecimal, so that nothing is lost.
 */
import { writeFileSync } from "node:fs";
import { sha256 } from "../src/digest.ts";
import { buildRows } from "../src/results/tabulate.ts";
import { chooseBlocks, shuffled } from "../src/samples/blocks.ts";
import { hexFloat, largeSweep, type Sweep, sweepOf } from "../test/contract/sweeps.ts";
import { normals, uniforms } from "../test/unit/statistics/random.ts";

const CONTRACT = new URL("../test/contract/", import.meta.url);
const TOKENS = 63;

/** Conditions × blocks of sums; a hole is a block that is not measured. */
function drawn(
  seed: number,
  conditions: number,
  blocks: number,
  effect: (index: number) => () => number,
): Sweep {
  const normal = normals(seed);
  const baseline = Array.from({ length: blocks }, () => 200 + 15 * normal());
  const rows = Array.from({ length: conditions }, (_, index) => {
    const draw = effect(index);
    return baseline.map((sum) => sum + TOKENS * draw());
  });
  return { tokens: TOKENS, baseline, rows };
}

const uniform = uniforms(11);
const normal = normals(12);
const seeded = (blocks: number) =>
  drawn(blocks, 12, blocks, (index) => {
    const shift = index < 4 ? 0 : 0.02 * index;
    if (index % 3 === 1) return () => shift - Math.log(1 - uniform()) / 20;
    if (index % 3 === 2) return () => shift + (uniform() < 0.15 ? 1 : 0.001 * normal());
    return () => shift + 0.1 * normal();
  });

const flat = (blocks: number, value: number): number[] => new Array<number>(blocks).fill(value);
const sweeps: Record<string, Sweep> = {
  ...Object.fromEntries(
    [2, 3, 8, 16, 32, 64, 200].map((blocks) => [`seeded, ${blocks} blocks`, seeded(blocks)]),
  ),
  "one block": { tokens: TOKENS, baseline: [200], rows: [[201], [200]] },
  "nothing changes": { tokens: TOKENS, baseline: flat(16, 200), rows: [flat(16, 200)] },
  "the same in every block": { tokens: TOKENS, baseline: flat(16, 200), rows: [flat(16, 201)] },
  ties: {
    tokens: TOKENS,
    baseline: flat(32, 200),
    rows: [flat(32, 200).map((sum, at) => sum + (at % 2)), flat(32, 200).map((sum, at) => sum - (at % 2))],
  },
  "far tails": {
    tokens: TOKENS,
    baseline: flat(64, 200).map((sum, at) => sum + at / 8),
    rows: [0.5, 1, 2, 5, 1e6].map((size) =>
      flat(64, 200).map((sum, at) => sum + at / 8 + size * (1 + (at % 2) * 1e-5)),
    ),
  },
  holes: {
    tokens: TOKENS,
    baseline: flat(20, 200).map((sum, at) => sum + Math.sin(at)),
    rows: [
      flat(20, 201).map((sum, at) => (at % 3 === 0 ? null : sum + Math.cos(at))),
      flat(20, 201).map((sum, at) => (at === 4 ? Number.NaN : sum)),
      new Array<null>(20).fill(null),
    ],
  },
};

const statistics = Object.entries(sweeps).map(([name, sweep]) => {
  const { baseline, conditions } = sweepOf(sweep);
  const rows = buildRows(baseline, conditions, { correction: "bh", floor: null });
  return {
    name,
    tokens: sweep.tokens,
    sums: [sweep.baseline, ...sweep.rows].map((row) => row.map(hexFloat)),
    rows: rows.map(
      ({
        condition,
        status,
        nll,
        delta_nll,
        se,
        ci95,
        p,
        q,
        distinguishable,
        worse_blocks,
        sign_p,
        flags,
      }) => ({
        condition,
        status,
        nll: hexFloat(nll),
        delta_nll: hexFloat(delta_nll),
        se: hexFloat(se),
        ci95: ci95?.map(hexFloat) ?? null,
        p: hexFloat(p),
        q: hexFloat(q),
        distinguishable,
        worse_blocks,
        sign_p: hexFloat(sign_p),
        flags,
      }),
    ),
  };
});

/** Token ids that any language can make: a text that repeats itself now and then. */
export const idsOf = (tokens: number): Int32Array =>
  Int32Array.from({ length: tokens }, (_, at) => ((at * at) % 7919) + (at % 100));

const choices = [
  {
    tokens: 3000,
    seq_len: 32,
    bos: null,
    batch_size: 4,
    wanted: 32,
    calibration: 0,
    seed: 0,
    resample: false,
  },
  { tokens: 3000, seq_len: 32, bos: 1, batch_size: 4, wanted: 32, calibration: 16, seed: 3, resample: false },
  {
    tokens: 1000,
    seq_len: 32,
    bos: null,
    batch_size: 4,
    wanted: 64,
    calibration: 32,
    seed: 1,
    resample: false,
  },
  { tokens: 2000, seq_len: 16, bos: 2, batch_size: 8, wanted: 40, calibration: 8, seed: 9, resample: true },
  {
    tokens: 500,
    seq_len: 64,
    bos: null,
    batch_size: 3,
    wanted: null,
    calibration: 0,
    seed: 5,
    resample: false,
  },
];
const sampling = {
  orders: [1, 2, 10, 100].flatMap((total) =>
    [0, 7].map((seed) => ({ total, seed, order: shuffled(total, seed) })),
  ),
  choices: choices.map((choice) => {
    const { wanted, calibration, tokens, ...rest } = choice;
    const found = chooseBlocks({
      ...rest,
      evaluation: { name: "text.txt", ids: idsOf(tokens) },
      calibration: null,
      max_batches: wanted === null ? null : wanted / choice.batch_size,
      calibration_batches: calibration / choice.batch_size,
    });
    const digest = (blocks: readonly { sha256: string }[]) =>
      sha256(blocks.map((block) => block.sha256).join("\n"));
    return {
      ...choice,
      evaluation: found.evaluation.map(({ index }) => index),
      calibrated: found.calibration.map(({ index }) => index),
      donors: (found.donors.resample ?? []).map(({ index }) => index),
      digests: [found.evaluation, found.calibration, found.donors.resample ?? []].map(digest),
      notices: found.notices,
    };
  }),
};

/** A table of 100,000 conditions that both languages make of whole numbers; every 2,500th row is kept. */
const large = sweepOf(largeSweep());
const kept = buildRows(large.baseline, large.conditions, { correction: "bh", floor: null }).flatMap(
  (row, index) =>
    index > 0 && index % 2500 === 0
      ? [[index - 1, ...[row.delta_nll, row.se, row.p, row.q].map(hexFloat), row.distinguishable]]
      : [],
);

writeFileSync(
  new URL("statistics.json", CONTRACT),
  `${JSON.stringify({ tables: statistics, large: kept })}\n`,
);
writeFileSync(new URL("sampling.json", CONTRACT), `${JSON.stringify(sampling)}\n`);
