/** What every form of a comparison of runs says in the same words. */
import { FALSE_DISCOVERY_RATE, type Row } from "../../results/row.ts";
import { givenText } from "../given.ts";
import { CORRECTIONS, componentName, legendOf, sampleText, unfinished } from "../headline.ts";
import { counted, decimalsFor, fixed, integer } from "../numbers.ts";
import { type Evaluated, inWords, sayer } from "../wording.ts";
import { type Agreement, isDoubtedPair, type NamedRun, type Pair, UNPAIRED } from "./agreement.ts";

/** Names listed before "and 12 more". */
const NAMED = 8;

/** Words fit a comparison of tasks where both runs have one. */
export const evaluatedIn = (agreement: Agreement): Evaluated => evaluatedInAll([agreement]);

export function evaluatedInAll(agreements: readonly Agreement[]): Evaluated {
  const tasks = agreements.flatMap(({ runs }) => runs.map(({ run }) => run.facts.task ?? null));
  return { task: tasks.includes(null) ? null : (tasks[0] ?? null) };
}

export function title(runs: readonly NamedRun[]): string {
  return `${runs.map(({ name }) => name).join(", ")}: do they rank alike?`;
}

/** One line a run: its letter, name and how it was measured. */
export function runLine({ letter, name, run: { facts, rows } }: NamedRun): string {
  const modes = [...new Set(rows.slice(1).flatMap(({ mode }) => mode ?? []))].join(", ");
  const what = facts.sweep === "custom" ? "conditions of its own" : `each ${componentName(facts)}`;
  const given = givenText(facts);
  return `${letter} is ${name}: ${what}${modes === "" ? "" : ` (${modes})`}${given === null ? "" : ` given ${given}`}; ${facts.model}, ${facts.numerics.dtype} on ${facts.numerics.device}; ${facts.text}, ${sampleText(rows, facts)}.`;
}

/** What a reader must know before any number: each a sentence, none where both runs were measured alike. */
export function cautions(agreement: Agreement): string[] {
  const { runs, differing, unpaired, shared_blocks } = agreement;
  const say = sayer(evaluatedIn(agreement));
  const lines = differing.length === 0 ? [] : [differingSentence(agreement)];
  if (unpaired !== null) {
    lines.push(
      say`Nothing is subtracted block by block, since ${inWords(evaluatedIn(agreement), UNPAIRED[unpaired])}: differences have no interval and no q, and disagreements are ordered by rank.`,
    );
  } else if (runs.some(({ run }) => run.evaluation.length > shared_blocks)) {
    const shared = counted(shared_blocks, inWords(evaluatedIn(agreement), "block"));
    lines.push(`Differences rest on the ${shared} that both runs have.`);
  }
  lines.push(...leftOut(agreement));
  for (const { letter, run } of runs) {
    for (const line of unfinished(run.rows, run.facts)) lines.push(`${letter}: ${line}`);
  }
  return lines;
}

/** What enters no number, by name. */
export function leftOut({ runs, alone, unmeasured }: Agreement): string[] {
  const [a, b] = runs;
  const lines = runs.flatMap(({ letter }, side) => {
    const names = alone[side] ?? [];
    return names.length === 0 ? [] : [`Left out, in ${letter} only: ${listed(names)}.`];
  });
  if (unmeasured.length > 0) {
    lines.push(`Left out, failed or not measured yet in ${a.letter} or ${b.letter}: ${listed(unmeasured)}.`);
  }
  return lines;
}

function differingSentence({ differing, runs: [a, b] }: Agreement): string {
  const list = differing.map(
    ({ key, values }) => `${key} (${a.letter} ${values[0]}, ${b.letter} ${values[1]})`,
  );
  return `Not measured alike: ${list.join("; ")}. A disagreement may come from that alone.`;
}

/** The findings: ρ, the tops, the halves, the differences. */
export function findings(agreement: Agreement): string[] {
  const { runs, ranking, top, halves, pairs, unpaired } = agreement;
  const [a, b] = runs;
  const say = sayer(evaluatedIn(agreement));
  const lines = [`${rankSentence(agreement)}${tieSentence(agreement)}`];
  if (top.length > 0) {
    const shares = top.map(
      ({ k, shared, by_chance }) => `${shared} of the top ${k} (${fixed(by_chance, 1)} by chance)`,
    );
    lines.push(`Shared: ${shares.join(", ")}.`);
  }
  if (ranking.n > 2 && halves.every((rho) => rho !== null)) {
    lines.push(
      say`Noise alone: one half of the blocks against the other, ${a.letter} agrees with itself to ρ ${fixed(halves[0] as number, 2)}, ${b.letter} to ${fixed(halves[1] as number, 2)}.`,
    );
  }
  if (unpaired !== null) return lines;
  const tested = pairs.filter(({ q }) => q !== null).length;
  const marked = pairs.filter(({ distinguishable }) => distinguishable).length;
  const doubted = pairs.filter(isDoubtedPair).length;
  lines.push(
    say`${marked} of ${counted(tested, "difference")} ${b.letter} − ${a.letter} distinguishable from 0 (*: paired by block, ${CORRECTIONS.bh} q ≤ ${FALSE_DISCOVERY_RATE}, no flag but skewed).${doubted === 0 ? "" : ` ${doubted} more with q ≤ ${FALSE_DISCOVERY_RATE} not marked because of a flag.`}`,
  );
  return lines;
}

export function rankSentence({ ranking: { n, rho, ci95 }, runs: [a, b] }: Agreement): string {
  const over = `over ${counted(n, "condition")} measured in both`;
  if (rho === null) return `Spearman ρ of ${a.letter} and ${b.letter} is not defined ${over}.`;
  const interval =
    ci95 === null
      ? "no interval"
      : `95 % interval ${fixed(ci95[0], 3)} to ${fixed(ci95[1], 3)}, taking conditions for an independent sample`;
  return `Rank agreement of ${a.letter} and ${b.letter}: Spearman ρ ${fixed(rho, 3)} ${over} (${interval}).`;
}

function tieSentence({ ranking: { ties }, runs }: Agreement): string {
  if (ties[0] + ties[1] === 0) return " No ties.";
  const where = ties.flatMap((count, side) =>
    count === 0 ? [] : [`${integer(count)} in ${runs[side]?.letter}`],
  );
  return ` Tied, with their mean rank: ${where.join(", ")}.`;
}

/** What stands above the table of disagreements. */
export function tableHeading({ runs: [a, b], unpaired }: Agreement): string {
  return unpaired === null
    ? `Largest disagreements: ${b.letter} − ${a.letter}, Δ NLL in nats per token`
    : "Largest disagreements: by the distance of the ranks";
}

/** A flag of any pair, and what it means. */
export const pairLegend = (pairs: readonly Pair[], facts: Evaluated): string[] =>
  legendOf(new Set(pairs.flatMap(({ flags }) => flags)), facts);

/** As many decimals as the differences' standard errors carry, or where there are none the effects'. */
export function pairDecimals({ pairs, unpaired }: Agreement): number {
  return unpaired === null
    ? decimalsFor(pairs.map(({ difference }) => ({ se: difference?.se ?? null })))
    : decimalsFor(pairs.flatMap(({ rows }): Row[] => [...rows]));
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, NAMED).join(", ");
  const more = names.length - NAMED;
  return `${counted(names.length, "condition")} (${shown}${more > 0 ? `, and ${integer(more)} more that --format json names` : ""})`;
}
