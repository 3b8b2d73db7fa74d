/** `sparkablate report --watch`: the live page of a running sweep, until Ctrl-C. */
import { serveLive } from "../report/live/server.ts";
import { RunWatch } from "../report/live/watch.ts";
import type { CommonFlags } from "./common.ts";
import { onInterrupt } from "./signals.ts";
import { print, printJson, say } from "./terminal.ts";

/** How often the terminal looks whether there is news. */
const LOOK_MS = 2_000;

/** @param port 0: any free one. */
export async function watchRun(directory: string, port: number, flags: CommonFlags): Promise<void> {
  const watch = new RunWatch(directory);
  const { failure } = watch.look();
  if (failure !== null) throw failure;
  await using server = await serveLive(watch, port);
  if (flags.json) printJson({ url: server.url, directory }, 0);
  else if (!flags.quiet) print(server.url);
  const tell = (text: string): void => {
    if (!flags.quiet) say(text);
  };
  tell(`watching ${directory}: open the page above in a browser on this machine; press Ctrl-C to stop`);
  let told = "";
  const { promise: interrupted, resolve: end } = Promise.withResolvers<void>();
  const release = onInterrupt(end);
  const news = setInterval(() => {
    const { state } = watch.look();
    const text = phaseText(state.phase, state.problem, directory);
    if (text !== told) tell(text);
    told = text;
  }, LOOK_MS);
  await interrupted;
  clearInterval(news);
  release();
}

function phaseText(phase: string, problem: string | null, directory: string): string {
  switch (phase) {
    case "waiting":
      return `waiting: ${problem}`;
    case "running":
      return "the sweep is measuring";
    case "finished":
      return `the run is finished: 'sparkablate report ${directory}' prints it; Ctrl-C ends the page`;
    default:
      return `${phase === "gone" ? "the run was removed" : "the run cannot be read"}: ${problem}`;
  }
}
