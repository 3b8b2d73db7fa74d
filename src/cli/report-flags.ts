/** How a command that shows a run's rows is told to show them. */
import type { Selection } from "../results/selection.ts";
import type { CommonFlags } from "./common.ts";
import { say } from "./terminal.ts";

export const FORMATS = ["table", "csv", "md", "json"] as const;
export type Format = (typeof FORMATS)[number];

export interface ReportFlags extends CommonFlags {
  readonly format?: Format;
  readonly top?: number;
  readonly bottom?: number;
  readonly sort?: string;
  readonly plots?: boolean;
}

/** Which rows are shown. */
export const selectionOfFlags = ({ top, bottom, sort }: ReportFlags): Selection => ({
  top: top ?? null,
  bottom: bottom ?? null,
  sort: sort ?? null,
});

/** null: nothing is printed. */
export function formatOf({ json, format, quiet }: ReportFlags): Format | null {
  if (json) return "json";
  return format ?? (quiet ? null : "table");
}

/** Says where the drawings are. */
export function sayFiles({ quiet }: ReportFlags, plots: readonly string[], page: string): void {
  if (quiet) return;
  for (const path of plots) say(`plot: ${path}`);
  say(`page: ${page}`);
}
