/** The columns of the disagreements, for the terminal, the page and CSV. Adding one is adding a row here. */
import type { Column } from "../columns.ts";
import { shortened } from "../headline.ts";
import { interval, orDash, probability, rank, signed } from "../numbers.ts";
import type { Evaluated } from "../wording.ts";
import type { Agreement, Pair } from "./agreement.ts";
import { evaluatedIn } from "./words.ts";

/** @param letters of the first and the second run; @param paired whether there are differences. */
export function pairColumns(
  [a, b]: readonly [string, string],
  paired: boolean,
  facts: Evaluated,
): Column<Pair>[] {
  const flags = (pair: Pair): string => shortened(pair.flags, facts);
  return [
    { title: "#", align: "right", expendable: 0, text: (_, place) => `${place}`, key: (_, place) => place },
    {
      title: "",
      align: "left",
      expendable: 0,
      text: ({ distinguishable }) => (distinguishable ? "*" : ""),
      key: ({ distinguishable }) => (distinguishable ? 0 : 1),
    },
    { title: "condition", align: "left", expendable: 0, text: ({ site }) => site, key: ({ site }) => site },
    ...ofRun(0, a),
    ...ofRun(1, b),
    ...(paired ? [difference(`${b} − ${a}`), ...TESTED] : []),
    {
      title: "ranks apart",
      align: "right",
      expendable: null,
      text: (pair) => rank(ranksApart(pair)),
      key: ranksApart,
    },
    { title: "flags", align: "left", expendable: 0, text: flags, key: flags },
  ];
}

const ofRun = (side: 0 | 1, letter: string): Column<Pair>[] => [
  {
    title: `Δ NLL ${letter}`,
    align: "right",
    expendable: 0,
    text: ({ rows }, _, decimals) => orDash(rows[side].delta_nll, (value) => signed(value, decimals)),
    key: ({ rows }) => rows[side].delta_nll,
  },
  {
    title: `rank ${letter}`,
    align: "right",
    expendable: 2,
    text: ({ ranks }) => rank(ranks[side]),
    key: ({ ranks }) => ranks[side],
  },
];

const difference = (title: string): Column<Pair> => ({
  title,
  align: "right",
  expendable: 0,
  text: (pair, _, decimals) => orDash(pair.difference?.mean ?? null, (value) => signed(value, decimals)),
  key: (pair) => pair.difference?.mean ?? null,
});

/** How sure a difference is. */
const TESTED: readonly Column<Pair>[] = [
  {
    title: "95 % interval",
    align: "right",
    expendable: 1,
    text: (pair, _, decimals) => interval(pair.difference?.ci95 ?? null, decimals),
    key: (pair) => pair.difference?.ci95?.[0] ?? null,
  },
  { title: "q", align: "right", expendable: 3, text: ({ q }) => probability(q), key: ({ q }) => q },
];

const ranksApart = ({ ranks }: Pair): number => Math.abs(ranks[0] - ranks[1]);

/** The columns of one comparison, in its own letters. */
export function columnsOfAgreement(agreement: Agreement): Column<Pair>[] {
  const [a, b] = agreement.runs;
  return pairColumns([a.letter, b.letter], agreement.unpaired === null, evaluatedIn(agreement));
}
