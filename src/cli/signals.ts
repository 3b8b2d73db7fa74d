/**
 * Ctrl-C, however it reaches us: as a signal to this process, or to the launcher that started it (bin/sparkablate.cjs),
 * or to both, which is what a terminal does.
 */

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
/** Nobody presses twice within this; npm, where its shell is bash, passes the terminal's signal on a second time. */
const ONE_PRESS_MS = 50;

/** What the presses do, in their order; undefined: what the system does with the signal. */
let steps: readonly (() => void)[] | undefined;
/** Presses of which this process was told by a signal, and by the launcher: a terminal tells both. */
let received = 0;
let reported = 0;
let receivedAt = Number.NEGATIVE_INFINITY;
let taken = 0;

function onSignal(): void {
  const now = performance.now();
  if (now - receivedAt >= ONE_PRESS_MS) received++;
  receivedAt = now;
  take();
}

function take(): void {
  while (taken < Math.max(received, reported)) {
    taken++;
    const [step, ...rest] = steps ?? [];
    if (step === undefined) {
      endBySignal();
      return;
    }
    steps = rest;
    step();
  }
}

/** @param interrupts how many presses the launcher has seen so far. */
export function launcherSaw(interrupts: number): void {
  reported = Math.max(reported, interrupts);
  take();
}

/** The system's own way: immediate, and whoever waits for this process sees why. */
function endBySignal(): void {
  for (const signal of SIGNALS) process.off(signal, onSignal);
  process.kill(process.pid, "SIGINT");
}

/**
 * From now on the first press does the first step, and so on; one more ends the process at once.
 * @returns gives the signals back to the system.
 */
export function onInterrupt(...wanted: readonly (() => void)[]): () => void {
  steps = wanted;
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return () => {
    steps = undefined;
    for (const signal of SIGNALS) process.off(signal, onSignal);
  };
}
