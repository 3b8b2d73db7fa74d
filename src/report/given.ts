/** What a run's words say of the edits that everything in it is measured on top of. */
import { interventionId } from "../conditions/ids.ts";
import type { RunFacts } from "../results/facts.ts";

/** Edits that are named before "and 12 more". */
const NAMED = 8;

/** Their ids; null where there are none. */
export function givenText({ given }: RunFacts): string | null {
  if (given === undefined) return null;
  const more = given.length - NAMED;
  return more > 0
    ? `${given.slice(0, NAMED).map(interventionId).join(" + ")} and ${more} more`
    : given.map(interventionId).join(" + ");
}

/** Whether two runs are measured on top of the same edits, so that their effects may stand in one ranking. */
export const isSameGround = (a: RunFacts, b: RunFacts): boolean => groundOf(a) === groundOf(b);

/** Equal where the edits are, whoever wrote them down. */
export const groundOf = ({ given = [] }: RunFacts): string =>
  given.map((one) => `${interventionId(one)} ${"sha256" in one ? one.sha256 : ""}`).join(" + ");
