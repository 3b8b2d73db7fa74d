/** The command line: one way to report an error, the only process.exit. */
import "./launcher.ts";
import { reportFailure, typedCommand } from "./failure.ts";
import { program } from "./program.ts";

const args = process.argv.slice(2);

async function main(): Promise<number> {
  try {
    await (await program(typedCommand(args) ?? "")).parseAsync();
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return reportFailure(error, args);
  }
}

// A reader that has seen enough (`| head`), or a terminal that was closed, is no error, and no reason to leave work undone.
for (const stream of [process.stdout, process.stderr]) {
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE" && error.code !== "EIO") throw error;
  });
}

process.on("uncaughtException", (error) => process.exit(reportFailure(error, args)));

const code = await main();
// A pipe takes 64 KiB at once; what waits behind it would be lost.
for (const stream of [process.stdout, process.stderr])
  await new Promise<void>((resolve) => void stream.write("", () => resolve()));
process.exit(code);
