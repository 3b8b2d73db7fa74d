/** `sparkablate doctor`. */
import { Command } from "commander";
import { examine, type Finding } from "../environment/doctor.ts";
import { type CommonFlags, withOutput } from "./common.ts";
import { leavable } from "./interrupt.ts";
import { print, printFitted, printJson } from "./terminal.ts";

const MARKS: Readonly<Record<Finding["status"], string>> = {
  ok: "ok     ",
  warning: "warning",
  failed: "FAILED ",
};
/** The environment is at fault (spec: exit code 3). */
const EXIT_ENVIRONMENT = 3;

export function doctorCommand(): Command {
  return withOutput(new Command("doctor"))
    .addHelpText(
      "after",
      "\nChanges nothing. Exit code 3 if a check failed.\n\nExample:\n  sparkablate doctor",
    )
    .action(async ({ json, quiet }: CommonFlags) => {
      const findings = await leavable(() =>
        examine((finding) => {
          if (!json && (!quiet || finding.status !== "ok")) tell(finding);
        }),
      );
      if (json) printJson(findings);
      if (findings.some(({ status }) => status === "failed")) process.exitCode = EXIT_ENVIRONMENT;
    });
}

function tell({ check, status, found, mend }: Finding): void {
  const indent = " ".repeat(25);
  printFitted(`${MARKS[status]}  ${check.padEnd(14)}  ${found}`, indent);
  // What to do may be a command to copy.
  if (mend !== null) print(`${indent}→ ${mend}`);
}
