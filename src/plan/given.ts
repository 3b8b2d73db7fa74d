/** Which conditions of a sweep can stand on what is given. */
import { joined } from "../conditions/given.ts";
import { canonical, conditionId } from "../conditions/ids.ts";
import type { Intervention, ModelMap } from "../protocol/messages.ts";

/** Conditions that a notice names. */
const NAMED = 8;

/** Those that can stand on what is given; what is left out is said. */
export function besideGiven<W extends { readonly interventions: readonly Intervention[] }>(
  sweep: string,
  wishes: readonly W[],
  given: readonly Intervention[],
  map: ModelMap,
  notices: string[],
): W[] {
  if (given.length === 0) return [...wishes];
  const out: string[] = [];
  const kept = wishes.filter(({ interventions }) => {
    const stands = joined(given, interventions, map).refusal === null;
    if (!stands) out.push(conditionId(canonical(interventions)));
    return stands;
  });
  if (out.length > 0) {
    const more = out.length > NAMED ? `, and ${out.length - NAMED} more` : "";
    notices.push(
      `sweep: ${sweep} leaves out ${out.slice(0, NAMED).join(", ")}${more}: ablation.given edits these already, in whole or in part`,
    );
  }
  return kept;
}
