/** The sentences that stand above every form of a report: what was measured, on what, and how far to trust it. */
import { SITES } from "../protocol/catalog.ts";
import { isLevel } from "../protocol/metrics.ts";
import type { RunFacts } from "../results/facts.ts";
import type { Rows } from "../results/packed-rows.ts";
import { isDoubted, type SweepStatistics } from "../results/ranking.ts";
import { DOUBTS, FALSE_DISCOVERY_RATE, FEW_BLOCKS, FLOOR_MULTIPLE, HINTS, type Row } from "../results/row.ts";
import { MAX_SKEWNESS } from "../statistics/effects.ts";
import { edgeOf, placesOf, type RacePlan } from "../statistics/racing.ts";
import { givenText } from "./given.ts";
import { counted, fixed, integer, percent, ratio, signed } from "./numbers.ts";
import { surveyOf } from "./survey.ts";
import { type Evaluated, inWords, sayer } from "./wording.ts";

/** What a sweep's name in the config removes, one at a time. */
const SWEPT = new Map<string | null, string>(Object.values(SITES).map(({ sweep, words }) => [sweep, words]));

export const CORRECTIONS = { bh: "Benjamini–Hochberg", by: "Benjamini–Yekutieli" } as const;

/** A flag's short form for a narrow column, and what it means. */
export const FLAG_NOTES: Readonly<Record<string, { readonly short: string; readonly meaning: string }>> = {
  [DOUBTS.oneBlock]: { short: "1 block", meaning: "one block has no spread: no interval" },
  [DOUBTS.fewBlocks]: { short: "few blocks", meaning: `fewer than ${FEW_BLOCKS} blocks` },
  [HINTS.skewed]: {
    short: "skewed",
    meaning: `|skewness| of the block differences is above ${MAX_SKEWNESS}: the effect rests on few blocks, its interval is too narrow, and p is corrected`,
  },
  [HINTS.otherGiven]: {
    short: "other given",
    meaning:
      "the two runs are measured on top of different given edits, so their effects are not of one kind",
  },
  [DOUBTS.noSpread]: { short: "no spread", meaning: "the same difference in every block: no interval" },
  [DOUBTS.belowFloor]: {
    short: "floor",
    meaning: `smaller than ${FLOOR_MULTIPLE} times what rounding alone does`,
  },
};

const DISCOVERED =
  "The architecture is discovered, not reviewed: where its components are was found on the model and proved at load; nobody has read it against the model's source.";

export function componentName(facts: RunFacts): string {
  return SWEPT.get(facts.sweep) ?? "component";
}

/** "32 blocks of 256 tokens", or "64 items of up to 12 tokens", as far as they are measured. */
export function sampleText(rows: Rows, facts: RunFacts): string {
  const measured = rows.at(0)?.blocks ?? 0;
  const of = measured < facts.planned_blocks ? ` (of ${integer(facts.planned_blocks)} planned)` : "";
  const size = facts.task == null ? "of" : "of up to";
  return sayer(
    facts,
  )`${integer(measured)} blocks${of} ${size} ${integer(facts.seq_len)} tokens${facts.bos ? ", BOS included" : ""}`;
}

/** One paragraph a line, for people. */
export function headline(rows: Rows, facts: RunFacts): string[] {
  const say = sayer(facts);
  const baseline = rows.at(0);
  const { statistics, decimals } = surveyOf(rows);
  const revision = facts.revision === null ? "" : ` at ${facts.revision.slice(0, 12)}`;
  const given = givenText(facts);
  const lines = [
    `${facts.model}${revision}, ${facts.numerics.dtype} on ${facts.numerics.device}; ${facts.text}, ${sampleText(rows, facts)}.`,
    ...(given === null
      ? []
      : [
          `Given ${given}: these edits act in every condition and in the baseline, and effects are what comes on top of them.`,
        ]),
    baseline?.nll == null
      ? "No baseline yet: nothing can be compared."
      : `Baseline: NLL ${fixed(baseline.nll, 4)} nats per token, perplexity ${ratio(baseline.perplexity)}${levels(baseline)}.`,
    say`Ranked by Δ NLL: nats per token by which the model predicts this text worse without the ${componentName(facts)}.`,
    facts.statistics.race
      ? raceSentence(rows, facts, facts.statistics.race)
      : testSentence(rows, statistics, facts),
  ];
  lines.push(...helpfulSentence(rows, facts, decimals));
  if (statistics.median_smallest_detectable !== null) {
    lines.push(
      `Smallest detectable effect: ${fixed(statistics.median_smallest_detectable, decimals)} (80 % power, median); below it an unmarked one may matter.`,
    );
  }
  if (facts.discovered !== undefined) lines.push(DISCOVERED);
  return [...lines, ...interactionSentence(rows, facts), ...warnings(rows, facts)];
}

/** Conditions without which the model predicts the text better; nothing where none is marked. */
function helpfulSentence(rows: Rows, facts: RunFacts, decimals: number): string[] {
  const { count, most } = surveyOf(rows).helpful;
  if (count === 0) return [];
  const named = most.map(({ condition, delta_nll }) => `${condition} (${signed(delta_nll ?? 0, decimals)})`);
  const more = count > most.length ? `, and ${integer(count - most.length)} more` : "";
  return [
    sayer(
      facts,
    )`Helpful removals, marked: removing these lowered the loss on this text: ${named.join(", ")}${more}.`,
  ];
}

/** What else the baseline is worth, e.g. its accuracy. */
function levels({ metrics }: Row): string {
  return Object.entries(metrics)
    .flatMap(([name, { mean }]) =>
      isLevel(name) && mean !== null ? [`, ${name.replace("_", " ")} ${fixed(mean, 3)}`] : [],
    )
    .join("");
}

/** How many joint conditions are more, or less, than the sum of their parts; nothing where there are none. */
function interactionSentence(rows: Rows, facts: RunFacts): string[] {
  const all = surveyOf(rows).interactions;
  const measured = all.filter(({ effect }) => effect !== null);
  if (all.length === 0) return [];
  const marked = measured.filter(({ distinguishable }) => distinguishable);
  const redundant = marked.filter(({ effect }) => (effect ?? 0) > 0).length;
  const procedure = CORRECTIONS[facts.statistics.correction];
  const missing = all.length - measured.length;
  return [
    `Interactions (Δ NLL of a joint condition minus the sum of its parts' Δ NLL): ${marked.length} of ${integer(measured.length)} distinguishable from 0 (${procedure} over the interactions), ${redundant} of them positive: there the parts back each other up.${doubted(measured.filter(isDoubted).length)}${missing === 0 ? "" : ` ${counted(missing, "interaction")} not measured.`}`,
  ];
}

function testSentence(rows: Rows, statistics: SweepStatistics, facts: RunFacts): string {
  const { modes } = surveyOf(rows);
  const family = modes.length > 1 ? ` over all conditions of ${modes.join(", ")} together` : "";
  const procedure = `${CORRECTIONS[facts.statistics.correction]}${family}`;
  return `${statistics.distinguishable} of ${counted(statistics.measured, "effect")} distinguishable from 0 (*: ${procedure} q ≤ ${FALSE_DISCOVERY_RATE}, no flag but skewed)${resting(statistics.skewed)}.${doubted(statistics.doubted)}`;
}

/** What `stop:` settled, how surely, and what it saved. */
function raceSentence(rows: Rows, facts: RunFacts, race: RacePlan): string {
  const { settled, measurements } = surveyOf(rows);
  const all = race.conditions * (race.rounds.at(-1) ?? 0);
  const confidence = percent(race.confidence);
  return sayer(
    facts,
  )`${edgeOf(race) === "top" ? "Top" : "Bottom"} ${placesOf(race)}: ${settled} settled at ${confidence} confidence (approximate), up to ${race.tolerance} nats per token; intervals are simultaneous at ${confidence}, without p and q. Measured: ${integer(measurements)} of ${integer(all)} condition × blocks.`;
}

/** What is missing or limits the comparison; empty for a complete run. */
export function warnings(rows: Rows, facts: RunFacts): string[] {
  const { failed = 0 } = surveyOf(rows).counts;
  const { floor } = facts.statistics;
  return [
    ...unfinished(rows, facts),
    ...(failed === 0
      ? []
      : [`Failed: ${counted(failed, "condition")}; the last column gives the error code.`]),
    ...(floor === null
      ? []
      : [
          `Numeric floor (${facts.numerics.dtype}): rounding alone moves Δ NLL by ${floor.rms.toPrecision(2)} rms.`,
        ]),
  ];
}

/** What is still to be measured, and what that means for the ranks. */
export function unfinished(rows: Rows, facts: RunFacts): string[] {
  const say = sayer(facts);
  const { partial = 0, pending = 0 } = surveyOf(rows).counts;
  const missing = facts.planned_conditions - (Math.max(0, rows.length - 1) - pending);
  const lines = [];
  if (missing > 0)
    lines.push(
      `Unfinished: ${missing} of ${counted(facts.planned_conditions, "condition")} not measured yet.`,
    );
  const blocks = rows.at(0)?.blocks ?? 0;
  if (facts.finished === null && missing <= 0 && blocks < facts.planned_blocks) {
    lines.push(
      say`Unfinished: ${counted(blocks, inWords(facts, "block"))} of ${integer(facts.planned_blocks)} so far; intervals will shrink.`,
    );
  }
  if (partial > 0) {
    lines.push(
      say`Seen on fewer blocks than the baseline: ${counted(partial, "condition")}; ranks then compare different blocks.`,
    );
  }
  return lines;
}

const resting = (count: number): string => (count === 0 ? "" : `, ${count} of them skewed`);

function doubted(count: number): string {
  return count === 0 ? "" : ` ${count} more with q ≤ ${FALSE_DISCOVERY_RATE} not marked because of a flag.`;
}

/** Flags of a row in their short form. */
export function shortFlags(row: Row, facts: Evaluated): string {
  return row.error ?? shortened(row.flags, facts);
}

export function shortened(flags: readonly string[], facts: Evaluated): string {
  return flags.map((flag) => inWords(facts, FLAG_NOTES[flag]?.short ?? flag)).join(", ");
}

/** What the flags that occur in these rows mean. */
export function flagLegend(rows: Rows, facts: Evaluated): string[] {
  return legendOf(surveyOf(rows).flags, facts);
}

export function legendOf(seen: ReadonlySet<string>, facts: Evaluated): string[] {
  return Object.entries(FLAG_NOTES).flatMap(([flag, { short, meaning }]) =>
    seen.has(flag) ? [inWords(facts, `${short}: ${meaning}`)] : [],
  );
}
