/** `sparkablate bake --from-run DIR --drop N`: the least harmful layers of a sweep, measured together before they go. */
import { resolve } from "node:path";
import type { Controller } from "../controller.ts";
import { SparkablateError } from "../errors.ts";
import { notify, type OnEvent } from "../events.ts";
import { interval, signed } from "../report/numbers.ts";
import type { Row } from "../results/row.ts";
import type { Baked, BakeOptions } from "../run/bake.ts";
import { dropping } from "../run/drop.ts";
import { configOfRun } from "../run/earlier-run.ts";
import { readPacked, readRun } from "../store/run-directory.ts";

/** Of the effect. */
const DECIMALS = 4;

/** What was written, and what it costs where the run did not look. */
export interface Dropped extends Baked {
  /** Ids, the least harmful one first. */
  readonly dropped: readonly string[];
  /** Of them together, on blocks that the run did not use. */
  readonly held_out: Pick<Row, "delta_nll" | "se" | "ci95" | "blocks">;
}

export async function bakeFromRun(
  controller: Controller,
  { directory, drop }: { readonly directory: string; readonly drop: string },
  options: BakeOptions,
  on: OnEvent,
): Promise<Dropped> {
  const count = drop.trim() === "" ? Number.NaN : Number(drop);
  if (Number.isNaN(count)) throw new SparkablateError("usage", `--drop ${drop}: a number is wanted`);
  const run = readPacked(resolve(directory));
  const { measured, dropped } = dropping(configOfRun(resolve(directory), run.facts), run, count);
  for await (const _row of controller.run(measured, { on, signal: options.signal }));
  const row = readRun(measured.output.dir).rows[1];
  if (row === undefined || row.delta_nll === null)
    throw new SparkablateError("internal", `${measured.output.dir} has measured nothing`);
  const { delta_nll, se, ci95, blocks } = row;
  notify(on, [
    `without ${dropped.join(", ")} together, on ${blocks} blocks that the run did not use: Δ NLL ${signed(delta_nll, DECIMALS)} ${interval(ci95, DECIMALS)}`,
  ]);
  const baked = await controller.bake(measured, { ...options, prune_layers: true, on });
  return { ...baked, dropped, held_out: { delta_nll, se, ci95, blocks } };
}
