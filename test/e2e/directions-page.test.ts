/** docs/directions.md: every command works, on a model of the same shape (test/full has the real one). */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { page, readThrough } from "../fixtures/directions-page.ts";
import { lookalike } from "../fixtures/reader.ts";

/** Random weights: no limit to what a direction may cost. */
function onLookalike(command: string): string {
  const here = command.replaceAll("builtin:smollm2-135m", lookalike());
  if (here.includes(" direction ")) return `${here} --dtype float32 --max-kl 1000`;
  if (here.includes(" compare ")) return `${here} --dtype float32`;
  if (!here.includes(" run ")) return here;
  return `${here} --set model.name=${lookalike()} --set eval.max_batches=1 --set eval.seq_len=32`;
}

it("goes from prompts to a certificate", { timeout: 300_000 }, async () => {
  const { directory } = await readThrough(onLookalike);
  const baked = readFileSync(join(directory, "baked/no-french/sparkablate_bake.json"), "utf8");
  expect(JSON.parse(baked)).toMatchObject({ certificate: { passed: true } });
  expect(existsSync(join(directory, "results/french/results.jsonl"))).toBe(true);
});

it("names the columns that the table has", () => {
  for (const column of ["lowered", "raised", "KL"]) expect(page()).toContain(`| ${column} |`);
});
