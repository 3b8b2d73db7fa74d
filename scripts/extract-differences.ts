/**
 * A run's block differences as one small file, to simulate with: what was measured, and where it comes from.
 *
 *   node scripts/extract-differences.ts RUN_DIR OUT.json
 *
 * Blocks that not every condition has are left out, so that a block can be drawn for all conditions at once.
 */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { blockDifferences } from "../src/statistics/effects.ts";
import { RunStore } from "../src/store/sqlite.ts";

export interface Differences {
  readonly about: string;
  /** When it was measured, and everything that makes it this run (src/store/fingerprint.ts). */
  readonly provenance: Readonly<Record<string, unknown>>;
  readonly conditions: readonly string[];
  readonly blocks: number;
  /** Base64 of float32, little-endian  # [conditions, blocks] */
  readonly differences: string;
  /** First-order effects on the same blocks, as `differences`; added by hand, since runs do not store them. */
  readonly attributions?: string;
}

export function extract(directory: string): Differences {
  const store = RunStore.read(directory);
  try {
    const run = store.run();
    const [baseline, ...conditions] = [...store.measurements("edits")];
    if (run === undefined || baseline === undefined)
      throw new Error(`${directory}: nothing was measured yet`);
    const failed = conditions.find(({ error }) => error !== null);
    if (failed !== undefined) throw new Error(`${directory}: ${failed.condition.id} failed`);
    const blocks = Math.min(...[baseline, ...conditions].map(({ sums }) => sums.nll?.length ?? 0));
    const first = (sums: Float64Array | undefined) => (sums ?? new Float64Array()).subarray(0, blocks);
    const values = conditions.map(({ sums, tokens }) =>
      Float32Array.from(blockDifferences(first(sums.nll), first(baseline.sums.nll), tokens)),
    );
    const { text, started, seq_len } = run.facts;
    return {
      about: `Δ NLL, nats per predicted token, of ${conditions.length} conditions on ${blocks} blocks of ${seq_len} tokens of ${text}`,
      provenance: { started, identity: run.identity },
      conditions: conditions.map(({ condition }) => condition.id),
      blocks,
      differences: Buffer.concat(values.map((row) => Buffer.from(row.buffer))).toString("base64"),
    };
  } finally {
    store.close();
  }
}

if (import.meta.main) {
  const { positionals } = parseArgs({ allowPositionals: true });
  const [directory, out] = positionals;
  if (directory === undefined || out === undefined) {
    throw new Error("usage: node scripts/extract-differences.ts RUN_DIR OUT.json");
  }
  writeFileSync(out, `${JSON.stringify(extract(directory), null, 2)}\n`);
}
