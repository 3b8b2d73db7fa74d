/** What is said of a condition's tokens, in every format. */
import type { TokenBin, TokenEffect, TokenReport } from "../../results/tokens.ts";
import type { Column } from "../columns.ts";
import { counted, integer, interval, orDash, percent, signed } from "../numbers.ts";
import { shownAfter, shownBefore, shownToken } from "./bytes.ts";

/** Of one token: single values, whose spread is seen in the table itself. */
const TOKEN_DECIMALS = 2;
const BEFORE = 28;
const BEHIND = 12;

export const tokensTitle = ({ run: { condition } }: TokenReport): string => `Where ${condition} hurts`;

const unitOf = ({ run: { facts } }: TokenReport): string => (facts.task == null ? "block" : "item");

export function tokensSentences(report: TokenReport): string[] {
  const { tokens, delta, worse, better, concentration, run } = report;
  const unit = unitOf(report);
  const loss =
    concentration === null
      ? ""
      : ` The 1 % of tokens with the largest Δ carry ${percent(Number(concentration.toPrecision(2)))} of all that is lost.`;
  return [
    `Δ NLL is ${signed(delta, 4)} nats a token over ${counted(tokens, "predicted token")} in ${counted(run.blocks.length, unit)}: ${percent(Number(worse.toPrecision(2)))} of them are predicted worse, ${percent(Number(better.toPrecision(2)))} better.${loss}`,
    ...(run.facts.task == null
      ? []
      : [
          "Every token of an answer counts once here; in the ranking every item does, whatever its answer's length.",
        ]),
  ];
}

export const topHeading = ({ top, tokens }: TokenReport): string =>
  `The ${integer(top.length)} of ${integer(tokens)} tokens with the largest Δ NLL, in context`;

/** Under the tables: what they may not be read as. */
export function tokensNotes(report: TokenReport): string[] {
  const unit = unitOf(report);
  return [
    "These tokens were selected as the largest of all: their Δ is no estimate of what the condition does to such tokens elsewhere, and there is no p value for it.",
    `Bins: Δ NLL is the mean over their tokens, SE and 95 % interval are over ${unit}s and of each bin alone, unadjusted; no interval where fewer than 16 ${unit}s hold such tokens. "of total" is what the bin adds to the Δ NLL of all tokens. Frequency is counted in the evaluated ${run(report)} only, not in what the model was trained on.`,
    "␣ is a space in or next to the token, ↵ a line break, → a tab, \\x.. a byte that is no whole character by itself.",
  ];
}

const run = ({ run: { facts } }: TokenReport): string => (facts.task == null ? "blocks" : "items");

export const positionHeading = (report: TokenReport): string =>
  report.run.facts.task == null
    ? "By position: the n-th predicted token of a block; the first stands alone"
    : "By position: the n-th token of an answer; the first stands alone";

export const frequencyHeading = "By frequency: how often the token occurs in the evaluated text";

export function tokenColumns(report: TokenReport): Column<TokenEffect>[] {
  const number = (
    title: string,
    expendable: number,
    value: (token: TokenEffect) => number,
    text: (value: number) => string,
  ): Column<TokenEffect> => ({
    title,
    align: "right",
    expendable,
    text: (token) => text(value(token)),
    key: value,
  });
  return [
    { title: "#", align: "right", expendable: 0, text: (_, place) => `${place}`, key: (_, place) => place },
    number(
      "Δ NLL",
      0,
      ({ delta }) => delta,
      (value) => signed(value, TOKEN_DECIMALS),
    ),
    number(
      "baseline",
      2,
      ({ baseline }) => baseline,
      (value) => value.toFixed(TOKEN_DECIMALS),
    ),
    {
      title: "before",
      align: "right",
      expendable: 1,
      text: ({ before }) => shownBefore(before, BEFORE),
      key: ({ before }) => shownBefore(before, BEFORE),
    },
    {
      title: "token",
      align: "left",
      expendable: 0,
      text: ({ bytes }) => shownToken(bytes),
      key: ({ bytes }) => shownToken(bytes),
    },
    {
      title: "after",
      align: "left",
      expendable: 3,
      text: ({ after }) => shownAfter(after, BEHIND),
      key: ({ after }) => shownAfter(after, BEHIND),
    },
    number("count", 6, ({ count }) => count, integer),
    number(unitOf(report), 4, ({ block }) => block, String),
    number("position", 5, ({ position }) => position, String),
  ];
}

export function binColumns(title: string): Column<TokenBin>[] {
  return [
    {
      title,
      align: "right",
      expendable: 0,
      text: ({ from, to }) => (from === to ? integer(from) : `${integer(from)}–${integer(to)}`),
      key: ({ from }) => from,
    },
    {
      title: "Δ NLL",
      align: "right",
      expendable: 0,
      text: ({ mean }, _, decimals) => signed(mean, decimals),
      key: ({ mean }) => mean,
    },
    {
      title: "SE",
      align: "right",
      expendable: 2,
      text: ({ se }, _, decimals) => orDash(se, (value) => value.toFixed(decimals)),
      key: ({ se }) => se,
    },
    {
      title: "95 % interval",
      align: "right",
      expendable: 1,
      text: ({ ci95 }, _, decimals) => interval(ci95, decimals),
      key: ({ ci95 }) => ci95?.[0] ?? null,
    },
    {
      title: "of total",
      align: "right",
      expendable: 2,
      text: ({ share }, _, decimals) => signed(share, decimals),
      key: ({ share }) => share,
    },
    {
      title: "tokens",
      align: "right",
      expendable: 0,
      text: ({ tokens }) => integer(tokens),
      key: ({ tokens }) => tokens,
    },
  ];
}
