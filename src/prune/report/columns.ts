/** The path's columns, for the page and for Markdown. */
import type { Column } from "../../report/columns.ts";
import { integer, orDash } from "../../report/numbers.ts";
import { effectText, gigabytes, titlesOf } from "../facts.ts";
import type { PathStep } from "../path.ts";
import type { Pruned } from "../prune.ts";

/** Units that a cell lists. */
const NAMED = 24;

export function stepColumns({ texts, chosen }: Pick<Pruned, "texts" | "chosen">): Column<PathStep>[] {
  const right = { align: "right", expendable: 0 } as const;
  return [
    { ...right, title: "removed", text: ({ size }) => String(size), key: ({ size }) => size },
    {
      ...right,
      title: "parameters",
      text: ({ weights }) => orDash(weights?.parameters ?? null, integer),
      key: ({ weights }) => weights?.parameters ?? null,
    },
    {
      ...right,
      title: "GB",
      text: ({ weights }) => orDash(weights?.bytes ?? null, gigabytes),
      key: ({ weights }) => weights?.bytes ?? null,
    },
    ...titlesOf(texts).map(
      (title, index): Column<PathStep> => ({
        ...right,
        title: `Δ NLL, ${title}`,
        text: ({ held_out }) => effectText(held_out[index] as PathStep["held_out"][number]),
        key: ({ held_out }) => held_out[index]?.delta_nll ?? null,
      }),
    ),
    {
      title: "written",
      align: "left",
      expendable: 0,
      text: ({ size }) => (size === chosen ? "yes" : ""),
      key: ({ size }) => (size === chosen ? 0 : 1),
    },
    {
      title: "which",
      align: "left",
      expendable: 0,
      text: ({ removed }) => whichText(removed),
      key: ({ removed }) => removed.join(" "),
    },
  ];
}

/** Ids of the removed, as far as there is room. */
export function whichText(removed: readonly string[]): string {
  return removed.length > NAMED ? `${removed.length} ids, in path.json` : removed.join(" ");
}
