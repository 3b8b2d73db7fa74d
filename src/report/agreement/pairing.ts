/** Pure: which condition of one run stands beside which of another. */
import { conditionId } from "../../conditions/ids.ts";
import type { Row } from "../../results/row.ts";

export interface Pairing {
  readonly pairs: readonly { readonly site: string; readonly rows: readonly [Row, Row] }[];
  /** Conditions of each run that have no counterpart in the other. */
  readonly alone: readonly [readonly string[], readonly string[]];
}

/**
 * The same condition in both; of what is left, the same sites edited in another way (mode, positions), where each
 * run has them once. In the order of the first run; the baselines are left out.
 */
export function pairConditions([, ...a]: readonly Row[], [, ...b]: readonly Row[]): Pairing {
  const byId = new Map(b.map((row) => [row.condition, row]));
  const mine = new Set(a.map(({ condition }) => condition));
  const [restOfA, restOfB] = [
    a.filter(({ condition }) => !byId.has(condition)),
    b.filter(({ condition }) => !mine.has(condition)),
  ];
  const [sitesOfA, sitesOfB] = [onceBySite(restOfA), onceBySite(restOfB)];
  const [paired, pairs] = [new Set<string>(), [] as Pairing["pairs"][number][]];
  for (const row of a) {
    const same = byId.get(row.condition);
    const site = same === undefined ? siteOf(row) : row.condition;
    const other = same ?? (sitesOfA.get(site) === row ? sitesOfB.get(site) : undefined);
    if (other === undefined) continue;
    pairs.push({ site, rows: [row, other] });
    paired.add(row.condition).add(other.condition);
  }
  const left = (rows: readonly Row[]) =>
    rows.filter(({ condition }) => !paired.has(condition)).map(({ condition }) => condition);
  return { pairs, alone: [left(restOfA), left(restOfB)] };
}

/** Sites that exactly one of these rows edits. */
function onceBySite(rows: readonly Row[]): Map<string, Row | undefined> {
  const found = new Map<string, Row | undefined>();
  for (const row of rows) {
    const site = siteOf(row);
    found.set(site, found.has(site) ? undefined : row);
  }
  return found;
}

/** A condition's id without what is done to its sites: `L14.head[3]` for `L14.head[3].mean@not_first`. */
export function siteOf({ interventions, condition }: Pick<Row, "interventions" | "condition">): string {
  // A digest of a long id names no sites.
  if (condition.startsWith("joint[")) return condition;
  return interventions
    .map((one) => {
      const id = conditionId([one]);
      if (one.kind === "direction") return id;
      return id.slice(0, id.lastIndexOf(`.${one.mode}`));
    })
    .join(" + ");
}
