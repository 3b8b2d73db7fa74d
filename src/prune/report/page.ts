/** report.html of a search: what was removed, what that costs on text that did not choose it, and how it was found. */
import type { Column } from "../../report/columns.ts";
import { htmlTable, paragraphs, renderDocument, tableData } from "../../report/document.ts";
import { counted, integer } from "../../report/numbers.ts";
import {
  countText,
  DECIMALS,
  gigabytes,
  levelText,
  repeatSentences,
  targetText,
  titlesOf,
} from "../facts.ts";
import type { Pruned } from "../prune.ts";
import type { FinishedSearch } from "../read.ts";
import { UNITS } from "../units.ts";
import { searchChart } from "./chart.ts";
import { stepColumns } from "./columns.ts";

export function renderSearchPage(search: FinishedSearch): Generator<string> {
  const { found, facts } = search;
  const { many } = UNITS[found.unit];
  const chart = searchChart(search);
  const compared = beforeAndAfter(found);
  return renderDocument({
    title: `${facts.model} with fewer ${many}`,
    summary: resultSentence(found),
    before: `${paragraphs(cautions(found), "caution")}
${compared.length === 0 ? "" : htmlTable("The model before and after", COMPARED, compared, DECIMALS)}
${paragraphs(timingSentence(found), "muted")}`,
    heading: "Steps",
    caption: "The best set found of each size, measured on held-out blocks.",
    items: { noun: "steps", tested: false, file: "the search's path.json" },
    after: `<h2>How these numbers were made</h2>
${paragraphs(methods(search))}`,
    data: {
      ...tableData(
        found.steps.map((step) => ({ ...step, distinguishable: null })),
        stepColumns(found),
        DECIMALS,
      ),
      total: found.steps.length,
      charts: chart === null ? [] : [chart],
    },
    live: false,
  });
}

/** What the search came to, in one sentence. */
export function resultSentence({ unit, target, steps, chosen, reached }: Pruned): string {
  const wanted = targetText(target, UNITS[unit]);
  if (steps.length === 0) return `Asked for: ${wanted}. Nothing could be removed.`;
  if (chosen === null)
    return `Asked for: ${wanted}. No step is shown to stay within it: nothing was written.`;
  return `Asked for: ${wanted}. ${reached ? "Written" : "Out of reach; written"}: the model without ${countText(chosen, UNITS[unit])}.`;
}

/** What must be known to read the page. */
export function cautions({ steps, texts, disagreement }: Pruned): string[] {
  const jumps = steps.flatMap(({ size, nested }) =>
    nested ? [] : [`${size} does not hold that of ${size - 1}`],
  );
  const titles = new Map(texts.map((text, index) => [text, titlesOf(texts)[index]]));
  return [
    "All numbers here were measured on held-out blocks. The blocks that chose the sets flatter them, so their numbers are never results.",
    "Each step is the best set that the search found of its size; it is not proved to be the best there is.",
    ...repeatSentences(steps[0]?.held_out ?? [], titlesOf(texts)),
    ...(jumps.length === 0
      ? []
      : [`Not every set grows out of the one before: the set of size ${jumps.join(", that of ")}.`]),
    ...(disagreement === null
      ? []
      : [
          `The texts disagree from ${disagreement.from_size} removed on: ${titles.get(disagreement.most)} suffers more than ${titles.get(disagreement.least)}.`,
        ]),
  ];
}

interface Compared {
  readonly what: string;
  readonly before: string;
  readonly after: string;
}

const COMPARED: readonly Column<Compared>[] = [
  { title: "", align: "left", expendable: 0, text: ({ what }) => what, key: ({ what }) => what },
  {
    title: "before",
    align: "right",
    expendable: 0,
    text: ({ before }) => before,
    key: ({ before }) => before,
  },
  { title: "after", align: "right", expendable: 0, text: ({ after }) => after, key: ({ after }) => after },
];

function beforeAndAfter({ unedited, steps, texts, chosen, checkpoint }: Pruned): Compared[] {
  const step = steps.find(({ size }) => size === chosen);
  if (unedited === null || step === undefined) return [];
  const [old, now, timing] = [unedited.weights, step.weights, checkpoint?.timing ?? null];
  const speed = (value: number) => integer(Math.round(value));
  return [
    ...(old === null || now === null
      ? []
      : [
          { what: "parameters", before: integer(old.parameters), after: integer(now.parameters) },
          { what: "GB of weights", before: gigabytes(old.bytes), after: gigabytes(now.bytes) },
        ]),
    ...(timing === null
      ? []
      : [{ what: "tokens a second", before: speed(timing.before), after: speed(timing.after) }]),
    ...titlesOf(texts).flatMap((title, index) => {
      const [before, after] = [unedited.nll[index], step.nll[index]];
      if (before === undefined || after === undefined) return [];
      return [{ what: `NLL, ${title}`, before: levelText(before), after: levelText(after) }];
    }),
  ];
}

function timingSentence({ checkpoint }: Pruned): string[] {
  const timing = checkpoint?.timing ?? null;
  if (timing === null) return [];
  return [
    `NLL in nats per token with 95 % intervals of each model's own. Tokens a second: forward passes of stock transformers over ${timing.batch_size} × ${timing.seq_len} tokens without a cache, by turns, the middle one of ${timing.rounds}, both in ${timing.dtype} on ${timing.device}, ${counted(timing.threads, "thread")}.`,
  ];
}

function methods({ found, settings, facts }: FinishedSearch): string[] {
  const { many, how } = UNITS[found.unit];
  const { seq_len, blocks, held_out_blocks, batch_size, seed, calibration } = settings;
  const revision = facts.revision === null ? "" : `, revision ${facts.revision}`;
  const constant =
    calibration === null
      ? ""
      : ` In the place of each stands its mean write over ${calibration}, taken from the unedited model.`;
  return [
    `We removed ${many} of ${facts.model}${revision} (weights sha256 ${facts.weights_sha256.slice(0, 16)}…), which ran in ${facts.numerics.dtype} on ${facts.numerics.device}, with sparkablate ${facts.version}. Each text (${found.texts.join(", ")}) was cut into blocks of ${integer(seq_len)} tokens, of which ${integer(blocks)} chose and ${integer(held_out_blocks)} others were held out, drawn at random without overlap (seed ${seed}, batches of ${batch_size}).${constant}`,
    `${how} The search took ${integer(Math.round(found.passes.search))} passes of the unedited model over a block; one full pass for every candidate would have been ${integer(found.passes.one_a_candidate)}.${found.unsettled === 0 ? "" : ` ${counted(found.unsettled, "race")} ended unsettled: the smallest mean was taken.`}`,
    `Δ NLL is NLL(without them) − NLL(unedited), block by block on the held-out blocks; intervals are of the paired t statistic.${"max_delta_nll" in found.target ? " The steps were tested in order, each by its one-sided 95 % bound on every text, and the last before the first failure was taken: the chance that the result truly costs more than was asked for is at most 5 % (fixed sequence: Maurer, Hothorn and Lehmacher, 1995). Later steps are shown and never chosen." : " How much to remove was given beforehand: nothing was tested."}`,
  ];
}
