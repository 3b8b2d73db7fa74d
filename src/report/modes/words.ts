/** What every form of the audit says in the same words. */
import { FALSE_DISCOVERY_RATE } from "../../results/row.ts";
import { evaluatedInAll, findings, leftOut } from "../agreement/words.ts";
import type { Column } from "../columns.ts";
import { counted, integer, orDash, signed } from "../numbers.ts";
import { sayer } from "../wording.ts";
import type { Comparison, ModeAudit, SiteAudit, Verdict } from "./audit.ts";

export const auditTitle = ({ modes }: ModeAudit): string => `Modes side by side: ${modes.join(", ")}`;

/** Above the table of sites. */
export const AUDIT_HEADING =
  "Worth that is an artefact of the mode: Δ NLL in each (* distinguishable from 0)";

/** One a line: how far the modes agree, pair by pair, and how many sites they tell apart. */
export function auditSentences(audit: ModeAudit): string[] {
  const { sites, tests, agreements } = audit;
  const say = sayer(evaluatedInAll(agreements));
  const several = new Set(agreements.flatMap(({ unpaired }) => unpaired ?? []));
  const lines = agreements.flatMap((agreement) => [...leftOut(agreement), ...findings(agreement)]);
  if (several.size > 0) {
    lines.push(say`Conditions saw different numbers of blocks: no difference between modes is tested.`);
    return lines;
  }
  const count = (verdict: Verdict) =>
    sites.filter(
      ({ artefact, comparisons }) => !artefact && comparisons.some((one) => one.verdict === verdict),
    ).length;
  const artefacts = sites.filter(({ artefact }) => artefact).length;
  lines.push(
    say`Artefacts of the mode: ${artefacts} of ${counted(sites.length, "site")}. There one mode marks the effect and another does not (or with the opposite sign), and the modes differ: paired by block, q ≤ ${FALSE_DISCOVERY_RATE} over all ${integer(tests)} differences between modes, no flag but “skewed”. ${integer(count("size"))} more differ in size; in ${integer(count("undecided"))} only one mode is marked, but the difference is not clear.`,
  );
  return lines;
}

const WORDS: Readonly<Record<Verdict, (one: Comparison, others: string) => string>> = {
  only: ({ larger }, others) => `in ${larger}, not in ${others}`,
  opposite: ({ larger }, others) => `opposite signs in ${larger} and ${others}`,
  size: ({ larger }, others) => `larger in ${larger} than in ${others}`,
  undecided: ({ larger }, others) => `undecided between ${larger} and ${others}`,
  alike: () => "",
  untested: () => "",
};

/** What the modes say of one site, e.g. "in zero, not in mean, resample". */
export function finding({ comparisons }: SiteAudit): string {
  const grouped = new Map<string, { one: Comparison; others: string[] }>();
  for (const one of comparisons) {
    const other = one.modes.find((mode) => mode !== one.larger) as string;
    const key = `${one.verdict} ${one.larger}`;
    const before = grouped.get(key);
    if (before === undefined) grouped.set(key, { one, others: [other] });
    else before.others.push(other);
  }
  return (Object.keys(WORDS) as Verdict[])
    .flatMap((verdict) => [...grouped.values()].filter(({ one }) => one.verdict === verdict))
    .map(({ one, others }) => WORDS[one.verdict](one, others.join(", ")))
    .filter((text) => text !== "")
    .join("; ");
}

export function auditColumns({ modes }: ModeAudit): Column<SiteAudit>[] {
  return [
    {
      title: "#",
      align: "right",
      expendable: 0,
      text: (_, place) => `${place}`,
      key: (_, place) => place,
    },
    {
      title: "condition",
      align: "left",
      expendable: 0,
      text: ({ site }) => site,
      key: ({ site }) => site,
    },
    ...modes.map(
      (mode, index): Column<SiteAudit> => ({
        title: mode,
        align: "right",
        expendable: 0,
        text: ({ rows }, _, decimals) => {
          const row = rows[index];
          const value = orDash(row?.delta_nll ?? null, (effect) => signed(effect, decimals));
          return `${value}${row?.distinguishable ? "*" : " "}`;
        },
        key: ({ rows }) => rows[index]?.delta_nll ?? null,
      }),
    ),
    { title: "finding", align: "left", expendable: 0, text: finding, key: finding },
  ];
}
