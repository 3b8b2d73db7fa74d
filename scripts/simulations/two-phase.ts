/** How often the interval of the two-phase estimate holds the truth, beside the plain one's, and how much narrower it is. */
import { estimate, median } from "../../src/statistics/effects.ts";
import { twoPhaseEstimate } from "../../src/statistics/two-phase.ts";
import { heavyTails, normals, uniforms } from "../../test/unit/statistics/random.ts";
import type { Draw } from "./families.ts";
import { measuredHeads } from "./heads.ts";

/** Measured blocks, and further ones that are attributed alone. */
export const PHASES = [16, 32, 64].flatMap((n) => [64, 256, 1024].map((more) => [n, more] as const));

/** The family of what was measured. */
export const HEADS = "SmolLM2's heads";

export interface Sharper {
  readonly family: string;
  readonly measured: number;
  readonly further: number;
  /** Over conditions: the middle one's coverage, that of the worst tenth, and the worst. */
  readonly covered: readonly [middle: number, tenth: number, worst: number];
  /** Of the plain t interval on the measured blocks. */
  readonly plain: readonly [middle: number, tenth: number, worst: number];
  /** Middle of how many times as many measured blocks a plain interval of this width takes. */
  readonly gain: number;
  /** Share of estimates that are flagged for telling too little. */
  readonly flagged: number;
}

/** A difference and an attribution for each of the blocks that are drawn. */
type Population = (draws: number) => { readonly effects: Float64Array; readonly attributions: Float64Array };

/** SmolLM2's 270 heads: blocks drawn with replacement from those that were measured, whose mean is the truth. */
export function sharperHeads(rounds: number, heads = measuredHeads().ids.length): Sharper[] {
  const { blocks, effects, attributions } = measuredHeads();
  const uniform = uniforms(11);
  return PHASES.map(([n, more]) =>
    sharper(
      HEADS,
      n,
      more,
      rounds,
      effects.slice(0, heads).map((own, head) => {
        const first = attributions[head] as Float64Array;
        const draw: Population = (draws) => {
          const picked = Int32Array.from({ length: draws }, () => Math.floor(uniform() * blocks));
          return {
            effects: Float64Array.from(picked, (block) => own[block] as number),
            attributions: Float64Array.from(picked, (block) => first[block] as number),
          };
        };
        return { truth: estimate(own).mean, draw };
      }),
    ),
  );
}

/** Made-up blocks whose effect is the attribution and a quarter as much besides, so that they correlate at 0.97. */
export function sharperFamilies(rounds: number): Sharper[] {
  const families: readonly [name: string, mean: number, draw: (seed: number) => Draw][] = [
    ["normal", 0, normals],
    ["t₃", 0, heavyTails],
    [
      "lognormal(1)",
      Math.exp(0.5),
      (seed) => {
        const normal = normals(seed);
        return () => Math.exp(normal());
      },
    ],
  ];
  return families.flatMap(([name, mean, of]) =>
    PHASES.map(([n, more]) => {
      const [first, besides] = [of(100 + n + more), of(200 + n + more)];
      const draw: Population = (draws) => {
        const attributions = Float64Array.from({ length: draws }, first);
        return { attributions, effects: attributions.map((value) => value + besides() / 4) };
      };
      return sharper(name, n, more, rounds, [{ truth: 1.25 * mean, draw }]);
    }),
  );
}

function sharper(
  family: string,
  measured: number,
  further: number,
  rounds: number,
  conditions: readonly { readonly truth: number; readonly draw: Population }[],
): Sharper {
  let flagged = 0;
  const found = conditions.map(({ truth, draw }) => {
    const holds = (interval: readonly [number, number] | null) =>
      interval === null || (interval[0] <= truth && truth <= interval[1]);
    let [covered, plain] = [0, 0];
    const gains: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const { effects, attributions } = draw(measured + further);
      const found = twoPhaseEstimate(effects.subarray(0, measured), attributions);
      if (found.information === "few" || found.information === "unseen") flagged++;
      if (holds(found.ci95)) covered++;
      if (holds(found.measured.ci95)) plain++;
      gains.push(found.gain ?? 1);
    }
    return { covered: covered / rounds, plain: plain / rounds, gain: median(gains) as number };
  });
  const spread = (shares: readonly number[]): [number, number, number] => {
    const sorted = shares.toSorted((a, b) => a - b);
    return [median(sorted) as number, sorted[Math.floor(sorted.length / 10)] as number, sorted[0] as number];
  };
  return {
    family,
    measured,
    further,
    covered: spread(found.map((one) => one.covered)),
    plain: spread(found.map((one) => one.plain)),
    gain: median(found.map((one) => one.gain)) as number,
    flagged: flagged / (rounds * conditions.length),
  };
}
