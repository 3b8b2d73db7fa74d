/** Which candidate direction is taken, by a rule that is written down, and whether chance would do as well. Pure. */
import quantile from "@stdlib/stats-base-dists-t-quantile";
import type { DirectionCandidate } from "../protocol/messages.ts";

/** Nats that projecting a direction out may cost at the negative prompts' next token. */
export const DEFAULT_MAX_KL = 0.2;

/** Simultaneous over the candidates, among which the best one was looked for. */
const ERROR_RATE = 0.05;

/** A score, as a mean over the held-out prompts. */
export interface ScoreEstimate {
  /** In the table's `unit`; kl in nats. */
  readonly value: number;
  /** Standard error. */
  readonly se: number;
  /** 95 % interval of this estimate alone: not adjusted for the choice among candidates. */
  readonly ci95: readonly [number, number];
}

type Estimate = DirectionCandidate["kl"];
type Scores = Pick<DirectionCandidate, "lowered" | "raised">;

export interface Choice {
  /** Of the candidates' list. */
  readonly index: number;
  /**
   * Whether both scores, at the lower end of an interval that holds for all candidates at once (95 %), are
   * above the best that any random direction reached.
   */
  readonly beyond_controls: boolean;
}

export const RULE =
  "the largest smaller one of lowered and raised, both above 0, among candidates with kl of at most max_kl";

/** @param freedom of the estimates: the smaller side's held-out prompts − 1. */
export function choose(
  candidates: readonly DirectionCandidate[],
  maxKl: number,
  freedom: number,
): Choice | null {
  const scored = candidates
    .map((candidate, index) => ({ candidate, index, score: weaker(candidate) }))
    .filter(({ candidate, score }) => score !== null && score > 0 && candidate.kl.value <= maxKl)
    .sort((a, b) => (b.score as number) - (a.score as number) || a.index - b.index);
  const best = scored[0];
  if (best === undefined) return null;
  const { lowered, raised } = best.candidate;
  const beyond = (["lowered", "raised"] as const).every((name) => {
    const chance = Math.max(
      ...candidates.map(({ random }) => random[name]?.value ?? Number.NEGATIVE_INFINITY),
    );
    const own = { lowered, raised }[name] as Estimate;
    return own.value - quantile(1 - ERROR_RATE / candidates.length, freedom) * own.se > chance;
  });
  return { index: best.index, beyond_controls: beyond };
}

/** null where a candidate has no score. */
export function weaker({ lowered, raised }: Scores): number | null {
  return lowered === null || raised === null ? null : Math.min(lowered.value, raised.value);
}

export function withInterval(estimate: Estimate | null, freedom: number): ScoreEstimate | null {
  if (estimate === null) return null;
  const half = quantile(0.975, freedom) * estimate.se;
  return { ...estimate, ci95: [estimate.value - half, estimate.value + half] };
}
