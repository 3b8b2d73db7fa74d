/** Which rows of a sweep are shown, and in which order. */
import { SparkablateError } from "../errors.ts";
import { didYouMean } from "../suggest.ts";
import type { Rows } from "./packed-rows.ts";
import { rankRows } from "./ranking.ts";
import type { Row } from "./row.ts";

export interface Selection {
  /** So many from the first; null: all. */
  readonly top: number | null;
  /** So many from the last that has something to sort by. */
  readonly bottom?: number | null;
  /** A column; null: the ranking. */
  readonly sort?: string | null;
}

/** A number: so many from the first; null: all. */
export type Shown = Selection | number | null;

interface ShownRow {
  readonly row: Row;
  /** Its place in the ranking, from 1. */
  readonly rank: number;
}

type Value = number | string | null;
interface SortKey {
  readonly of: (row: Row) => Value;
  readonly falling: boolean;
}

const falling = (of: SortKey["of"]): SortKey => ({ of, falling: true });
const rising = (of: SortKey["of"]): SortKey => ({ of, falling: false });

/** Beside the metrics' columns, the largest of which stand first. */
const KEYS: Readonly<Record<string, SortKey>> = {
  delta_nll: falling((row) => row.delta_nll),
  "|delta_nll|": falling((row) => row.delta_nll && Math.abs(row.delta_nll)),
  nll: falling((row) => row.nll),
  perplexity: falling((row) => row.perplexity),
  perplexity_ratio: falling((row) => row.perplexity_ratio),
  se: rising((row) => row.se),
  p: rising((row) => row.p),
  q: rising((row) => row.q),
  layer: rising((row) => row.layer),
  condition: rising((row) => row.condition),
  blocks: falling((row) => row.blocks),
  seconds: falling((row) => row.seconds),
};

/** @throws SparkablateError usage, for a column that the run does not have. */
export function sortKey(name: string, metrics: readonly string[]): SortKey {
  const known = KEYS[name];
  if (known !== undefined) return known;
  if (metrics.includes(name)) return falling((row) => row.metrics[name]?.mean ?? null);
  const names = [...Object.keys(KEYS), ...metrics];
  throw new SparkablateError(
    "usage",
    `--sort ${name} is no column of this run${didYouMean(name, names)}; allowed: ${names.join(", ")}`,
  );
}

export function selectionOf(shown: Shown): Required<Selection> {
  const {
    top = null,
    bottom = null,
    sort = null,
  } = typeof shown === "object" && shown !== null ? shown : { top: shown };
  return { top, bottom, sort };
}

export function selectRows(rows: Rows, shown: Shown): ShownRow[] {
  const { top, bottom, sort } = selectionOf(shown);
  // Of the ranking's beginning alone the rest is never made.
  const most = sort === null && bottom === null ? (top ?? rows.length) : rows.length;
  const ranked = rankRows(rows, most).map((row, index) => ({ row, rank: index + 1 }));
  const key = sort === null ? KEYS.delta_nll : sortKey(sort, metricsOf(rows));
  const ordered = sort === null || key === undefined ? ranked : sorted(ranked, key);
  if (bottom === null) return ordered.slice(0, top ?? rows.length);
  const filled = ordered.filter(({ row }) => key?.of(row) !== null);
  return filled.slice(Math.max(0, filled.length - bottom));
}

/** Rows without a value stand last; equals in the ranking's order. */
function sorted(rows: readonly ShownRow[], { of, falling: down }: SortKey): ShownRow[] {
  return rows.toSorted(({ row: left }, { row: right }) => {
    const [a, b] = [of(left), of(right)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    if (a === b) return 0;
    return (a < b ? -1 : 1) * (down ? -1 : 1);
  });
}

const metricsOf = (rows: Rows): string[] =>
  Object.keys(rows.values().find(({ metrics }) => Object.keys(metrics).length > 0)?.metrics ?? {});

/** What a reader must know of the selection; nothing where all rows are shown in the ranking's order. */
export function selectionWords(shown: Shown, count: number, total: number): string[] {
  const { bottom, sort } = selectionOf(shown);
  const order = sort === null ? [] : [`Sorted by ${sort}; # is the place by Δ NLL.`];
  if (count === total) return order;
  return [
    ...order,
    bottom === null
      ? `${count} of ${total} conditions shown.`
      : `The last ${count} of ${total} conditions shown.`,
  ];
}
