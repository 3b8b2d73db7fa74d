/** `sparkablate doctor`. */
import { Command } from "commander";
import { examine, type Finding } from "../environment/doctor.ts";
import { type CommonFlags, fitted, withOutput } from "./common.ts";
import { leavable } from "./interrupt.ts";

const MARKS: Readonly<Record<Finding["status"], string>> = {
  ok: "ok     ",
  warning: "warning",
  failed: "FAILED ",
};
/** The environment is at fault (spec: exit code 3). */
const EXIT_ENVIRONMENT = 3;

export function doctorCommand(): Command {
  return withOutput(new Command("doctor"))
    .description("check node, python, torch against the device, memory, worker; say how to mend each")
    .addHelpText(
      "after",
      "\nChanges nothing. Exit code 3 if a check failed.\n\nExample:\n  sparkablate doctor",
    )
    .action(async ({ json, quiet }: CommonFlags) => {
      const findings = await leavable(() =>
        examine((finding) => {
          if (!json && (!quiet || finding.status !== "ok")) print(finding);
        }),
      );
      if (json) console.log(JSON.stringify(findings, null, 1));
      if (findings.some(({ status }) => status === "failed")) process.exitCode = EXIT_ENVIRONMENT;
    });
}

function print({ check, status, found, mend }: Finding): void {
  const indent = " ".repeat(25);
  console.log(fitted(`${MARKS[status]}  ${check.padEnd(14)}  ${found}`, process.stdout, indent));
  // What to do may be a command to copy.
  if (mend !== null) console.log(`${indent}→ ${mend}`);
}
