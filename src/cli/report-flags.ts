/** How a command that shows a run's rows is told to show them. */
import type { CommonFlags } from "./common.ts";

export const FORMATS = ["table", "csv", "md", "json"] as const;
export type Format = (typeof FORMATS)[number];

export interface ReportFlags extends CommonFlags {
  readonly format?: Format;
  readonly top?: number;
  readonly plots?: boolean;
}
