/** The launcher's end of the channel, where there is a launcher: imported before all else, so that nothing is missed. */
import { launcherSaw } from "./signals.ts";

/** What kills the launcher kills the command: nobody could stop it any more. */
const endWithLauncher = (): void => void process.kill(process.pid, "SIGKILL");

if (process.send !== undefined) {
  process.on("message", ({ interrupts }: { readonly interrupts: number }) => launcherSaw(interrupts));
  process.on("disconnect", endWithLauncher);
  if (!process.connected) endWithLauncher();
}
