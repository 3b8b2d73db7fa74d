/** A run as somebody watches it: read again when its database has changed, and described for the page. */
import { randomUUID } from "node:crypto";
import { existsSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { SparkablateError } from "../../errors.ts";
import { type ReportedRun, readPacked } from "../../store/run-directory.ts";
import { databasePath } from "../../store/sqlite.ts";
import { flagLegend, headline } from "../headline.ts";
import { counted, integer } from "../numbers.ts";
import { pageTitle, rankingData } from "../page.ts";
import { surveyOf } from "../survey.ts";
import { inWords } from "../wording.ts";
import type { LiveState } from "./client.ts";

/** Rows that the page gets: it is sent anew with every change. */
const MOST_ROWS = 1_000;
/** The database is read at most this often, and for at most this share of the time. */
const LEAST_MS = 1_000;
const BUSY_SHARE = 0.2;

export interface Snapshot {
  /** Another one for every change. */
  readonly etag: string;
  readonly state: LiveState;
  /** Why the run cannot be read. */
  readonly failure: SparkablateError | null;
}

export class RunWatch {
  readonly #directory: string;
  readonly #id = randomUUID();
  #version = 0;
  #key = "";
  #readAt = Number.NEGATIVE_INFINITY;
  #pause = 0;
  #snapshot: Snapshot | undefined;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** The run as it stands. However many ask, it is read once a change, through a connection that cannot write. */
  look(): Snapshot {
    const began = performance.now();
    if (this.#snapshot !== undefined && began - this.#readAt < this.#pause) return this.#snapshot;
    const key = changeKey(this.#directory);
    if (this.#snapshot === undefined || key !== this.#key) {
      const { state, failure } = this.#read();
      this.#snapshot = { state, failure, etag: `"${this.#id}-${++this.#version}"` };
      this.#key = key;
    }
    this.#readAt = performance.now();
    this.#pause = Math.max(LEAST_MS, (this.#readAt - began) / BUSY_SHARE);
    return this.#snapshot;
  }

  #read(): Pick<Snapshot, "state" | "failure"> {
    const path = databasePath(this.#directory);
    if (!existsSync(path)) return { state: this.#absent(), failure: null };
    try {
      return { state: describe(readPacked(this.#directory), lastWritten(path)), failure: null };
    } catch (error) {
      if (!(error instanceof SparkablateError)) throw error;
      // It may vanish between two calls; and a run that loads its model has tables, but nothing in them.
      if (!existsSync(path)) return { state: this.#absent(), failure: null };
      if (error.code === "input_missing" && error.cause === undefined) {
        return {
          state: { ...this.#last(), phase: "waiting", problem: "the sweep has not begun to measure" },
          failure: null,
        };
      }
      return { state: { ...this.#last(), phase: "failed", problem: error.message }, failure: error };
    }
  }

  #absent(): LiveState {
    const last = this.#last();
    return last.page === null
      ? { ...last, phase: "waiting", problem: `there is no run in ${this.#directory} yet` }
      : { ...last, phase: "gone", problem: `${this.#directory} has no results.sqlite any more` };
  }

  /** What was seen last, or a page with nothing in it. */
  #last(): LiveState {
    return (
      this.#snapshot?.state ?? {
        title: basename(resolve(this.#directory)),
        summary: "",
        sentences: [],
        phase: "waiting",
        problem: null,
        share: 0,
        amount: "",
        written_at: null,
        page: null,
      }
    );
  }
}

function describe({ rows, facts }: ReportedRun, written_at: number): LiveState {
  const [summary = "", ...sentences] = headline(rows, facts);
  const done = surveyOf(rows).measurements;
  const planned = facts.planned_conditions * facts.planned_blocks;
  const legend = flagLegend(rows, facts);
  const isFinished = facts.finished !== null;
  const most = facts.statistics.race ? "at most " : "";
  return {
    title: pageTitle(facts),
    summary,
    sentences: legend.length === 0 ? sentences : [...sentences, `Flags: ${legend.join("; ")}.`],
    phase: isFinished ? "finished" : "running",
    problem: null,
    share: isFinished || planned === 0 ? 1 : done / planned,
    amount: isFinished
      ? `${counted(facts.planned_conditions, "condition")}, ${integer(done)} measurements`
      : `${integer(done)} of ${most}${integer(planned)} measurements (conditions × ${inWords(facts, "blocks")})`,
    written_at,
    page: rankingData(rows, facts, MOST_ROWS),
  };
}

/** Of the database and its write-ahead log, whichever is newer; ms since 1970. */
function lastWritten(path: string): number {
  const times = [path, `${path}-wal`].map((file) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0);
  return Math.max(...times);
}

/** Changes whenever the database or its write-ahead log does, or another file takes their place. */
function changeKey(directory: string): string {
  const path = databasePath(directory);
  return [path, `${path}-wal`]
    .map((file) => statSync(file, { throwIfNoEntry: false, bigint: true }))
    .map((stat) => (stat === undefined ? "none" : `${stat.ino}:${stat.size}:${stat.mtimeNs}`))
    .join(" ");
}
