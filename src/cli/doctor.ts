/** `sparkablate doctor`. */
import { Command } from "commander";
import { examine, type Finding } from "../environment/doctor.ts";
import { type CommonFlags, withOutput } from "./common.ts";

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
      const findings = await examine();
      if (json) console.log(JSON.stringify(findings, null, 1));
      else for (const finding of findings) if (!quiet || finding.status !== "ok") print(finding);
      if (findings.some(({ status }) => status === "failed")) process.exitCode = EXIT_ENVIRONMENT;
    });
}

function print({ check, status, found, mend }: Finding): void {
  console.log(`${MARKS[status]}  ${check.padEnd(14)}  ${found}`);
  if (mend !== null) console.log(`         ${" ".repeat(14)}  → ${mend}`);
}
