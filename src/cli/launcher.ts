/** What the launcher handed over: imported before all else, so that nothing is missed. */
import { launcherSaw } from "./signals.ts";

/** What kills the launcher kills the command: nobody could stop it any more. */
const endWithLauncher = (): void => void process.kill(process.pid, "SIGKILL");

if (process.send !== undefined) {
  process.on("message", ({ interrupts }: { readonly interrupts: number }) => launcherSaw(interrupts));
  process.on("disconnect", endWithLauncher);
  if (!process.connected) endWithLauncher();
}

// It was for this process alone, whose allocator has read it: a worker started from here is to keep its tensors.
if (process.env.SPARKABLATE_MALLOC === "ours") {
  delete process.env.MALLOC_MMAP_THRESHOLD_;
  delete process.env.SPARKABLATE_MALLOC;
}
