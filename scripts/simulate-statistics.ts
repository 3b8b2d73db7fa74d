/**
 * How far the statistics can be trusted: simulated coverage, false discovery rate, racing errors and savings.
 *
 *   node scripts/simulate-statistics.ts [--rounds 2000] [--write]
 *
 * Prints Markdown tables; --write puts them into docs/statistics.md. A test runs it in small.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { measuredHeads } from "./simulations/heads.ts";
import { BLOCKS, type Coverage, coverage, discovery, headCoverage } from "./simulations/intervals.ts";
import { headRacing, headSavings, type RaceResult, racing } from "./simulations/races.ts";
import { HEADS, type Sharper, sharperFamilies, sharperHeads } from "./simulations/two-phase.ts";

/** Orders of the blocks in the table of savings: a tenth of the simulated samples. */
const ORDERS_SHARE = 0.1;

export function report(rounds: number): string {
  const orders = Math.ceil(ORDERS_SHARE * rounds);
  const heads = headCoverage(rounds);
  return [
    `${count(rounds)} simulated samples a cell. Share of 95 % intervals that hold the true mean (in brackets: flagged "skewed"):`,
    coverageTable("block differences", [...coverage(rounds), heads.median, heads.worst]),
    `SmolLM2's rows: ${count(heads.heads)} heads, each set to zero, measured on ${measuredHeads().blocks} blocks, which are drawn from with replacement. Share of heads with a coverage under 93 %: ${heads.below.map((share, column) => `${percent(share)} at ${BLOCKS[column]} blocks`).join(", ")}.`,
    "False discovery rate at q ≤ 0.05 (100 conditions, 25 real, 32 blocks, Benjamini–Hochberg):",
    table(
      ["block differences", "mean false discovery rate", "standard error"],
      discovery(rounds).map(({ family, rate, se }) => [family, percent(rate), percent(se)]),
    ),
    "`stop: {top: 5, confidence: 0.95}` on up to 128 blocks; cost against the uniform run that settles the same. Normal and t₃: 40 conditions, the tolerance is half a block's sd. SmolLM2's 270 heads, drawn from jointly, with the heads outside the top moved until the gap is as planted: half of the edge head's block sd, and 0.002 nats:",
    table(
      ["block differences", "tolerance", "gap at the edge", "errors", "settled", "measurements"],
      [...racing(rounds), ...headRacing(rounds)].map(racingCells),
    ),
    `\`stop: {top: 5, confidence: 0.95, tolerance: 0.002}\` on SmolLM2's 270 heads, mean over ${count(orders)} orders of the blocks. Cost as a share of the uniform run that ends with the same decisions (same bounds, schedule and order, nothing eliminated):`,
    table(
      [
        "blocks",
        "at most",
        "errors",
        "settled",
        "decided of the top 5",
        "uniform run's blocks",
        "measurements",
        "forward-equivalents",
      ],
      headSavings(orders).map((saving) => [
        saving.text,
        count(saving.blocks),
        percent(saving.errors),
        percent(saving.settled),
        saving.accepted.toFixed(1),
        saving.uniform.toFixed(0),
        percent(saving.measurements),
        percent(saving.forwards),
      ]),
    ),
    `The two-phase estimate: n blocks measured, N more attributed alone; ${count(orders)} samples a condition. Of the made-up blocks an effect is its attribution and a quarter as much noise of the same kind; SmolLM2's heads are drawn as above, with their own attributions. Coverage of the middle condition, of the worst tenth and of the worst (in brackets: of the plain t interval on the same n blocks); gain: how many times n blocks a plain interval of this width takes:`,
    table(
      ["block differences", "n", "N", "middle", "worst tenth", "worst", "gain", "flagged"],
      [...sharperFamilies(rounds), ...sharperHeads(orders)].map(sharperCells),
    ),
  ].join("\n\n");
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const count = (number: number): string => number.toLocaleString("en-US");

function table(head: readonly string[], lines: readonly (readonly string[])[]): string {
  return [head, head.map(() => "--:"), ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function coverageTable(first: string, rows: readonly Coverage[]): string {
  return table(
    [first, ...BLOCKS.map((blocks) => `${blocks} blocks`)],
    rows.map(({ family, covered, skewed }) => [
      family,
      ...covered.map((share, column) => `${percent(share)} (${percent(skewed[column] ?? 0)})`),
    ]),
  );
}

function sharperCells({ family, measured, further, covered, plain, gain, flagged }: Sharper): string[] {
  const share = (at: 0 | 1 | 2) => `${percent(covered[at])} (${percent(plain[at])})`;
  const shares = family === HEADS ? [share(0), share(1), share(2)] : [share(0), "", ""];
  return [family, count(measured), count(further), ...shares, gain.toFixed(1), percent(flagged)];
}

function racingCells({ family, tolerance, gap, errors, settled, cost }: RaceResult): string[] {
  return [
    family,
    tolerance.toPrecision(1),
    `${gap} × tolerance`,
    percent(errors),
    percent(settled),
    percent(cost),
  ];
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { rounds: { type: "string", default: "2000" }, write: { type: "boolean", default: false } },
  });
  const tables = report(Number(values.rounds));
  console.log(tables);
  if (values.write) {
    const path = new URL("../docs/statistics.md", import.meta.url);
    const [before = "", , after = ""] = readFileSync(path, "utf8").split(/<!-- (?:simulated|end) -->/);
    writeFileSync(path, `${before}<!-- simulated -->\n\n${tables}\n\n<!-- end -->${after}`);
  }
}
