/** Pure: in what two runs differ beside what they remove, and what that leaves to compare. */
import type { BlockRun } from "../../store/block-run.ts";

/** Parts of a run's identity that a comparison is about, or that no Δ NLL depends on. */
const FREE =
  /^(config\.ablation\.|config\.eval\.(calibration|metrics|max_batches|skip_batches|seed)|config\.stop|conditions$|directions$|calibration blocks$|config\.model\.(device|device_map|threads|attn_implementation|dtype)$)/;

export interface Difference {
  /** Part of the runs' identity (store/fingerprint.ts), or a file of the model. */
  readonly key: string;
  readonly values: readonly [string, string];
}

/** What should be equal and is not; empty for runs that measured the same way. */
export function differences(a: BlockRun, b: BlockRun): Difference[] {
  const keys = [...new Set([...Object.keys(a.identity), ...Object.keys(b.identity)])].sort();
  // On top of what the effects are comes before how they were measured.
  const found = ["given", ...keys.filter((key) => key !== "given")]
    .filter((key) => !FREE.test(key) && a.identity[key] !== b.identity[key])
    .map((key) => ({ key, values: [partText(key, a), partText(key, b)] }) as const);
  return [...found, ...differingFiles(a, b)];
}

/** What weights and tokenizer as 0.1.0 saw them do not show: shards elsewhere, an index, a template. */
function differingFiles(a: BlockRun, b: BlockRun): Difference[] {
  const isEqual = (part: "weights" | "tokenizer") => a.identity[part] === b.identity[part];
  if (a.files === null || b.files === null || !isEqual("weights") || !isEqual("tokenizer")) return [];
  const [one, other] = [a.files, b.files];
  const names = new Set([...Object.keys(one), ...Object.keys(other)].sort());
  const digest = (files: Readonly<Record<string, string>>, name: string) =>
    files[name]?.slice(0, 12) ?? "absent";
  return [...names]
    .filter((name) => one[name] !== other[name])
    .map((name) => ({ key: name, values: [digest(one, name), digest(other, name)] }));
}

/** As a person knows it: a text's name rather than its blocks' digest. */
function partText(key: string, { identity, facts, evaluation }: BlockRun): string {
  const value = identity[key];
  if (value === undefined) return "absent";
  const digest = value.slice(0, 12);
  if (key === "weights")
    return `${facts.model}${facts.revision ? `@${facts.revision.slice(0, 12)}` : ""} ${digest}`;
  if (key === "evaluation blocks") return `${evaluation.length} of ${facts.text}, ${digest}`;
  if (/^[0-9a-f]{64}$/.test(value)) return digest;
  return value.replaceAll(/^"|"$/g, "");
}

/** Ordinals of the blocks that both runs evaluate, by their tokens: of the first, of the second run. */
export function sharedBlocks(a: BlockRun, b: BlockRun): ReadonlyMap<number, number> {
  const there = onceByDigest(b.evaluation);
  const shared = new Map<number, number>();
  for (const [digest, ordinal] of onceByDigest(a.evaluation)) {
    const other = there.get(digest);
    if (ordinal !== undefined && other !== undefined) shared.set(ordinal, other);
  }
  return shared;
}

/** A block that stands twice in a text could be paired wrongly: such blocks are left out. */
function onceByDigest(digests: readonly string[]): Map<string, number | undefined> {
  const found = new Map<string, number | undefined>();
  for (const [ordinal, digest] of digests.entries())
    found.set(digest, found.has(digest) ? undefined : ordinal);
  return found;
}
