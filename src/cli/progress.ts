/** A running sweep on stderr: a live block on a terminal, a plain line now and then elsewhere. */
import { createLogUpdate } from "log-update";
import type { RunEvent, SweepPlan } from "../events.ts";
import { printable } from "../printable.ts";
import { counted } from "../report/numbers.ts";
import { cut } from "../report/table.ts";
import type { Row } from "../results/row.ts";
import type { CommonFlags } from "./common.ts";
import { lines, paint, quoted, say, type Words, words } from "./terminal.ts";

const TOP = 5;
const REDRAW_MS = 100;
const PLAIN_LINE_MS = 10_000;
const BAR_CELLS = 24;
/** Leaves room for the numbers on 80 columns. */
const LONGEST_ID = 32;

export interface Progress {
  on(event: RunEvent): void;
  /** Leaves the screen as a reader wants it: no half-drawn bar. */
  end(): void;
}

export function showProgress(flags: CommonFlags): Progress {
  if (flags.quiet) return { on: () => undefined, end: () => undefined };
  const verbose = flags.verbose ?? false;
  const live = process.stderr.isTTY && process.env.TERM !== "dumb" && !process.env.CI;
  const draw = live ? liveBlock() : plainLines();
  const rows = new Map<string, Shown>();
  let plan: SweepPlan | undefined;
  return {
    on(event) {
      switch (event.type) {
        case "stage":
          draw.update(() => stageLine(event, live));
          break;
        case "loaded":
          draw.print(loadedLine(event.model));
          break;
        case "notice":
          draw.print(`note: ${event.message}`);
          break;
        case "recognised":
          draw.print("this run is already finished; nothing is loaded");
          break;
        case "plan":
          plan = event.plan;
          draw.print(planLines(plan));
          break;
        case "measured":
          if (live && event.row !== null) rows.set(event.row.condition, shown(event.row));
          draw.update(() => lines([measuredLine(event, live), ...topLines(rows.values(), plan)]));
          break;
        case "restart":
          draw.print(restartLines(event.error, verbose));
          break;
      }
    },
    end: () => draw.end(),
  };
}

/** What a line shows of a condition: a sweep may have a hundred thousand. */
type Shown = Pick<Row, "condition" | "kind" | "delta_nll" | "ci95" | "blocks">;

const shown = ({ condition, kind, delta_nll, ci95, blocks }: Row): Shown => ({
  condition,
  kind,
  delta_nll,
  ci95,
  blocks,
});

interface Draw {
  /** Something that stays. */
  print(line: string | Words): void;
  /** The state of work in progress; composed only when it is shown. */
  update(compose: () => string | Words): void;
  end(): void;
}

function liveBlock(): Draw {
  const block = createLogUpdate(process.stderr);
  let current = "";
  let drawnAt = Number.NEGATIVE_INFINITY;
  let pending: NodeJS.Timeout | undefined;
  return {
    print(line) {
      block.clear();
      say(line);
      if (current !== "") block(current);
    },
    update(compose) {
      clearTimeout(pending);
      const show = (): void => {
        drawnAt = performance.now();
        current = words`${compose()}`.text;
        block(current);
      };
      const wait = REDRAW_MS - (performance.now() - drawnAt);
      if (wait <= 0) show();
      else pending = setTimeout(show, wait);
    },
    end() {
      clearTimeout(pending);
      block.clear();
      current = "";
    },
  };
}

function plainLines(): Draw {
  let shownAt = performance.now();
  return {
    print: say,
    update(compose) {
      if (performance.now() - shownAt < PLAIN_LINE_MS) return;
      shownAt = performance.now();
      say(compose());
    },
    end: () => undefined,
  };
}

/** A picture of the share for a terminal, its number elsewhere. */
const bar = (share: number, live: boolean): string => {
  if (!live) return `${Math.floor(100 * Math.min(1, share))} %`;
  const full = Math.round(Math.min(1, Math.max(0, share)) * BAR_CELLS);
  return "█".repeat(full) + "░".repeat(BAR_CELLS - full);
};

function stageLine({ stage, done, total, unit }: RunEvent & { type: "stage" }, live: boolean): string {
  if (total === null) return `${stage} …`;
  return `${stage}  ${bar(done / total, live)}  ${amount(done, unit)} of ${amount(total, unit)}`;
}

const amount = (value: number, unit: string): string =>
  unit === "bytes" ? `${(value / 2 ** 20).toFixed(0)} MiB` : `${value.toLocaleString("en")} ${unit}`;

function loadedLine({
  source,
  model_map,
  numerics,
  seconds,
  reused,
  self_test,
}: (RunEvent & { type: "loaded" })["model"]): Words {
  const { n_layers, parameters, model_type } = model_map;
  const how = reused ? "was already loaded" : `loaded in ${seconds.toFixed(1)} s`;
  const failed = self_test.filter(({ passed }) => !passed);
  const tested =
    failed.length === 0
      ? `self-test passed (${self_test.length} checks)`
      : lines(
          failed.map(
            ({ name, detail, refused }) =>
              `self-test failed: ${name}: ${detail}; refused: ${refused.join(", ")}`,
          ),
        );
  return words`${source} (${model_type}, ${n_layers} layers, ${(parameters / 1e6).toFixed(0)} M parameters) ${how}, ${numerics.dtype} on ${numerics.device_name}, ${counted(numerics.threads, "thread")}; ${tested}`;
}

function planLines(plan: SweepPlan): Words {
  const { conditions, blocks, batches, tokens, total, stored } = plan;
  const resumed =
    stored === 0 ? "" : `; ${grouped(stored)} of ${grouped(total)} measurements are already stored`;
  const what = `${grouped(conditions)} conditions (the baseline included) × ${blocks} ${unit(plan)} (${counted(tokens, plan.of_task ? "token" : "predicted token")}${plan.of_task ? " of answers" : ""}) in ${batches} ${batches === 1 ? "batch" : "batches"}${resumed}`;
  return lines(stored === total ? [what] : [what, workLine(plan)]);
}

function workLine({ forward_equivalents, seconds, peak_bytes, may_stop }: SweepPlan): string {
  const passes =
    forward_equivalents < 10 ? forward_equivalents.toFixed(1) : grouped(Math.round(forward_equivalents));
  const gib = (peak_bytes / 2 ** 30).toFixed(1);
  return `to do: the work of ${passes} forward passes over a batch, ${may_stop ? "at most" : "about"} ${duration(seconds)}; peak memory of the worker about ${gib} GiB`;
}

const unit = (plan: SweepPlan | undefined): string => (plan?.of_task ? "items" : "blocks");

const grouped = (value: number): string => value.toLocaleString("en");

function measuredLine({ done, total, seconds_left }: RunEvent & { type: "measured" }, live: boolean): string {
  const count = `${done.toLocaleString("en")} / ${total.toLocaleString("en")}`;
  return `${live ? "" : "measured  "}${bar(done / total, live)}  ${count}  ${duration(seconds_left)} left`;
}

function topLines(rows: Iterable<Shown>, plan: SweepPlan | undefined): (string | Words)[] {
  // The rows of an earlier part of the run are not among these.
  const resumed = (plan?.stored ?? 0) > 0;
  const top = largest(rows);
  if (top.length === 0) return [];
  const ids = top.map(({ condition }) => cut(printable(condition), LONGEST_ID));
  const width = Math.max(...ids.map(({ length }) => length));
  return [
    paint(
      "dim",
      `largest Δ NLL ${resumed ? "since the run resumed" : "so far"}, nats per token (95 % interval)`,
    ),
    ...top.map(({ delta_nll, ci95, blocks }, place) => {
      const interval = ci95 === null ? "" : `  [${ci95.map((end) => end.toFixed(4)).join(", ")}]`;
      return `  ${ids[place]?.padEnd(width)}  ${(delta_nll ?? 0).toFixed(4)}${interval}  ${blocks} ${unit(plan)}`;
    }),
  ];
}

/** In one pass: it is asked for ten times a second. */
function largest(rows: Iterable<Shown>): Shown[] {
  const top: Shown[] = [];
  const effect = (row: Shown | undefined): number => row?.delta_nll ?? Number.NEGATIVE_INFINITY;
  for (const row of rows) {
    if (row.kind === "baseline" || row.delta_nll === null) continue;
    if (top.length === TOP && effect(row) <= effect(top.at(-1))) continue;
    const at = top.findIndex((other) => effect(other) < effect(row));
    top.splice(at < 0 ? top.length : at, 0, row);
    if (top.length > TOP) top.pop();
  }
  return top;
}

function restartLines(
  { message, detail }: (RunEvent & { type: "restart" })["error"],
  verbose: boolean,
): Words {
  const last = detail?.split("\n").slice(verbose ? 0 : -5) ?? [];
  return lines([
    paint("yellow", `${message}; starting again; no measurement is lost`),
    ...(last.length === 0 ? [] : [quoted(last.join("\n"), "  worker: ")]),
  ]);
}

export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
