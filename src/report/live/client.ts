/// <reference lib="dom" />
/**
 * What makes a page live: it asks its server for the run's state. The page carries the text of `followRun`, so the
 * function must not use anything outside itself.
 */
import type { PageData, UpdatePage } from "../page-client.ts";

/** What the server of `report --watch` answers. */
export interface LiveState {
  readonly title: string;
  readonly summary: string;
  readonly sentences: readonly string[];
  /** waiting: no run yet; gone: the directory was removed; failed: it cannot be read, see `problem`. */
  readonly phase: "waiting" | "running" | "finished" | "gone" | "failed";
  readonly problem: string | null;
  /** Share of the planned condition × blocks that is measured, 0 … 1. */
  readonly share: number;
  readonly amount: string;
  /** When the database last changed, ms since 1970; null before it exists. */
  readonly written_at: number | null;
  /** null: nothing is measured yet. */
  readonly page: PageData | null;
}

// biome-ignore lint/complexity/noExcessiveLinesPerFunction: the page carries its text, so it uses nothing from outside
export function followRun(update: UpdatePage): void {
  const POLL_MS = 2_000;
  let known = "";
  let state: LiveState | null = null;
  /** New data that is not in the page yet. */
  let waiting: PageData | null = null;
  let unreachable = false;

  const element = (id: string): HTMLElement => document.getElementById(id) as HTMLElement;

  function ago(milliseconds: number): string {
    const seconds = Math.max(0, Math.round(milliseconds / 1000));
    if (seconds < 90) return `${seconds} s ago`;
    const minutes = Math.round(seconds / 60);
    return minutes < 90 ? `${minutes} min ago` : `${Math.round(minutes / 60)} h ago`;
  }

  function statusText({ phase, problem, amount, written_at }: LiveState): string {
    const written = written_at === null ? "" : `; last written ${ago(Date.now() - written_at)}`;
    switch (phase) {
      case "waiting":
        return `Waiting: ${problem ?? "nothing is measured yet"}`;
      case "running":
        return `Running: ${amount}${written}`;
      case "finished":
        return `Finished: ${amount}`;
      case "gone":
        return `The run was removed: ${problem ?? ""}; this is what it had`;
      case "failed":
        return `The run cannot be read: ${problem ?? ""}`;
    }
  }

  function show(): void {
    const status = element("live");
    const text =
      state === null
        ? "Connecting …"
        : unreachable
          ? "The watcher has ended; this is the last it saw."
          : statusText(state);
    if (status.textContent !== text) status.textContent = text;
    status.dataset.phase = unreachable ? "failed" : (state?.phase ?? "waiting");
    (element("share") as HTMLProgressElement).value = state?.share ?? 0;
  }

  /** A chart that somebody points at is not drawn anew under the pointer. */
  const isRead = (): boolean => document.querySelector("canvas:hover, canvas:focus-visible") !== null;

  function take(next: LiveState): void {
    state = next;
    document.title = next.title;
    element("title").textContent = next.title;
    element("summary").textContent = next.summary;
    const lines = next.sentences.map((text) => {
      const line = document.createElement("p");
      line.textContent = text;
      return line;
    });
    element("sentences").replaceChildren(...lines);
    waiting = next.page ?? waiting;
  }

  async function poll(): Promise<void> {
    try {
      const answer = await fetch("state", { headers: { "if-none-match": known }, cache: "no-store" });
      unreachable = false;
      if (answer.status === 200) {
        take((await answer.json()) as LiveState);
        known = answer.headers.get("etag") ?? "";
      }
    } catch {
      unreachable = true;
    }
    if (waiting !== null && !isRead()) {
      update(waiting);
      waiting = null;
    }
    show();
    // A finished run changes no more.
    if (state?.phase === "finished" && waiting === null) return;
    setTimeout(poll, unreachable ? 5 * POLL_MS : POLL_MS);
  }

  void poll();
}
