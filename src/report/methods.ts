/** How the numbers were made, in words that a paper's methods section can take over; and how to cite. */

import type { RunFacts } from "../results/facts.ts";
import type { Rows } from "../results/packed-rows.ts";
import { FALSE_DISCOVERY_RATE, FEW_BLOCKS, FLOOR_MULTIPLE } from "../results/row.ts";
import { MAX_SKEWNESS } from "../statistics/effects.ts";
import { edgeOf, placesOf, type RacePlan } from "../statistics/racing.ts";
import { givenText } from "./given.ts";
import { CORRECTIONS, componentName } from "./headline.ts";
import { integer } from "./numbers.ts";
import { surveyOf } from "./survey.ts";
import { inWords, sayer } from "./wording.ts";

const EDITS: Readonly<Record<string, string>> = {
  zero: "setting its output to zero",
  mean: "replacing its output by its mean over the calibration text",
  resample: "replacing its output by what it is at the same positions of another, randomly drawn row",
  patch: "replacing its output by what it is at the same positions of the donor line",
  skip: "skipping it, so that its output is its input",
};

const LAYER_MEAN =
  "replacing what it adds to the residual stream by the mean of that over the calibration text";

const CORRECTION_SOURCES = {
  bh: "Benjamini and Hochberg, 1995",
  by: "Benjamini and Yekutieli, 2001",
} as const;

export function methods(rows: Rows, facts: RunFacts): string[] {
  const say = sayer(facts);
  const baseline = rows.at(0);
  const { numerics } = facts;
  const { statistics } = surveyOf(rows);
  const revision = facts.revision === null ? "" : `, revision ${facts.revision}`;
  return [
    say`We removed components of ${facts.model}${revision} (weights sha256 ${facts.weights_sha256.slice(0, 16)}…) one condition at a time and measured the mean negative log-likelihood (NLL, nats per predicted token) of ${facts.text}: ${integer(statistics.conditions)} conditions, ${removal(rows, facts)}. ${unitText(facts)}${facts.bos ? ", each beginning with the BOS token, which is never a target" : ""}; ${integer(baseline?.blocks ?? 0)} blocks (${integer(baseline?.tokens ?? 0)} predicted tokens) were drawn at random without replacement (seed ${facts.seed}).${calibration(facts)}${sources(facts)}${givenWords(facts)}`,
    say`The model ran in ${numerics.dtype} on ${numerics.device} (${numerics.device_name}; attention implementation ${numerics.attn_implementation}, ${numerics.threads} threads, batches of ${facts.batch_size} blocks, TF32 ${numerics.tf32 ? "on" : "off"}).${facts.discovered === undefined ? "" : " Its components were located by automatic discovery (not reviewed against its source) and proved at load: zeroed values, replayed additions, bitwise logits."} Log-probabilities were computed in float32 and summed in float64 per block.${padding(facts)}`,
    say`An effect is ΔNLL = NLL(condition) − NLL(baseline) on the same blocks. Blocks are the unit of analysis: standard errors, 95 % confidence intervals and two-sided p values come from the paired t statistic of the block differences with n − 1 degrees of freedom.${facts.statistics.race ? raceText(facts.statistics.race, facts) : testText(rows, statistics.measured, facts)}${floorText(facts)} The t interval assumes roughly normal block means; for strongly skewed differences it is too narrow. Where the differences' |skewness| exceeds ${MAX_SKEWNESS}, the condition is flagged, and its p value is the larger of the t test's and of that of the skewness-corrected statistic of Hall (1992).`,
    ...interactionText(rows, facts),
    ...modesText(rows, facts),
    say`The results describe this text. Perplexity on one text does not show what a component does elsewhere, and single removals do not show redundancy: two components that back each other up can both look unimportant.`,
  ];
}

export function bibtex(facts: RunFacts): string {
  return [
    `@software{sparkablate_${facts.version.replaceAll(/\W/g, "_")},`,
    "  title   = {sparkablate: component ablation for open-weight causal language models},",
    "  author  = {{The sparkablate authors}},",
    `  version = {${facts.version}},`,
    `  year    = {${facts.started.slice(0, 4)}}`,
    "}",
  ].join("\n");
}

function testText(rows: Rows, measured: number, facts: RunFacts): string {
  const { correction } = facts.statistics;
  return sayer(
    facts,
  )` Intervals are each condition's own, not adjusted for the number of conditions. p values of the ${integer(measured)} measured conditions${surveyOf(rows).modes.length > 1 ? ", of all modes together," : ""} were adjusted by the ${CORRECTIONS[correction]} procedure (${CORRECTION_SOURCES[correction]}); a condition is called distinguishable if q ≤ ${FALSE_DISCOVERY_RATE} and at least ${FEW_BLOCKS} blocks were measured.`;
}

function interactionText(rows: Rows, facts: RunFacts): string[] {
  const { correction } = facts.statistics;
  const count = surveyOf(rows).interactions.filter(({ effect }) => effect !== null).length;
  if (count === 0) return [];
  return [
    sayer(
      facts,
    )`The interaction of a joint condition is its ΔNLL minus the sum of the ΔNLL of its parts, each measured alone on the same blocks: 0 where the effects add up. Intervals and p values come from the paired t statistic of its block values; the p values of the ${integer(count)} interactions were adjusted by the ${CORRECTIONS[correction]} procedure as a family of their own. For two parts it is the pairwise interaction; for more it is the sum of the interactions of all orders among them.`,
  ];
}

function modesText(rows: Rows, facts: RunFacts): string[] {
  if (surveyOf(rows).modes.length < 2) return [];
  return [
    sayer(
      facts,
    )`Sites edited in several modes were compared mode by mode: ranks by Spearman's ρ, effects by their paired difference, block by block, with p values adjusted by the Benjamini–Hochberg procedure over all differences between modes. What a site is worth is called an artefact of the mode if one mode marks its effect and another does not, not even with a flag, or with the opposite sign, and the difference between the modes is itself distinguishable from 0; that one effect is significant and another is not does not show that they differ (Gelman and Stern, 2006). Intervals of the differences so selected are adjusted for the selection (false coverage rate, Benjamini and Yekutieli, 2005).`,
  ];
}

function raceText(race: RacePlan, facts: RunFacts): string {
  const rounds = race.rounds.map(integer).join(", ");
  const [places, edge] = [placesOf(race), edgeOf(race)];
  const effects = edge === "top" ? "largest effects" : "smallest effects (the lowest Δ NLL)";
  return sayer(
    facts,
  )` To settle the ${places} ${effects}, conditions raced in rounds of ${rounds} blocks, fixed in advance: after each round one-sided paired t bounds between conditions, at an error of ${(1 - race.confidence).toPrecision(2)} divided by the number of pairs of one condition in the ${edge} and one outside (${places} × ${Math.max(0, race.conditions - places)}) and of rounds, decided which could no longer enter or leave the ${edge}; effects within ${race.tolerance} nats per token of its edge count as equal. The guarantee is approximate, since t bounds at such tails are too narrow for skewed data. Intervals hold for all conditions and rounds together; no p values are given.`;
}

function removal(rows: Rows, facts: RunFacts): string {
  const modes = surveyOf(rows).edits;
  const edits = modes.flatMap((mode) => {
    const words = mode === "mean" && facts.sweep === "layers" ? LAYER_MEAN : EDITS[mode ?? ""];
    return words === undefined ? [] : [words];
  });
  const one = facts.sweep === "custom" ? "listed in the config below" : `each ${componentName(facts)} alone`;
  return edits.length === 0 || facts.sweep === "custom" ? one : `${one}, by ${edits.join(" or by ")}`;
}

/** How the text became blocks, or the file items. */
function unitText({ task, seq_len }: RunFacts): string {
  if (task == null) return `The text was tokenised once and cut into blocks of ${integer(seq_len)} tokens`;
  const wrong = task.wrong
    ? " The logit difference is logit(answer) − logit(wrong answer) at the first token in which they differ; an item counts as accurate where it is positive."
    : " An item counts as accurate where every token of its answer has the largest logit.";
  return `The task file (sha256 ${task.sha256.slice(0, 16)}…, ${integer(task.items)} items) holds prompts with answers. Prompt and answer were tokenised as one text, and the tokens of the answer alone were measured: an item's NLL is their mean, and items weigh the same.${wrong} Items have up to ${integer(seq_len)} tokens`;
}

const padding = ({ task, seq_len }: RunFacts): string =>
  task == null
    ? ""
    : ` Items were padded on the right to ${integer(seq_len)} tokens, which a causal model does not see.`;

function givenWords(facts: RunFacts): string {
  const given = givenText(facts);
  if (given === null) return "";
  return ` All of it, the baseline included, was measured with ${given} applied: an effect is what a condition does on top of these edits, both being applied together as one joint condition. Means and donor activations are those of the unedited model.`;
}

function calibration(facts: RunFacts): string {
  if (facts.calibration === null) return "";
  // A task's means may come from a text, which has no items.
  const disjoint =
    facts.task != null && facts.calibration !== facts.text ? "" : ", on blocks disjoint from these";
  return sayer(facts)` Mean activations were taken from ${facts.calibration}${inWords(facts, disjoint)}.`;
}

function sources(facts: RunFacts): string {
  const { resample_source: resample, patch_source: patch } = facts;
  const drawn =
    resample === undefined
      ? ""
      : sayer(
          facts,
        )` For resample ablation each block was given one donor block of its own, drawn without replacement (same seed) from ${resample} and disjoint from those evaluated: no two effects share one, and their spread includes that of the draw.`;
  return `${drawn}${patch === undefined ? "" : ` Patched activations were taken from ${patch}, line by line, at equal token counts.`}`;
}

function floorText({ statistics: { floor } }: RunFacts): string {
  if (floor === null) return "";
  return ` Null conditions, in which the residual stream moves by one unit in the last place, changed NLL by ${floor.rms.toPrecision(2)} (rms); effects below ${FLOOR_MULTIPLE} times that are never called distinguishable.`;
}
