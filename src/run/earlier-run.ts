/** The earlier run that a sweep of pairs starts from. */

import { join, resolve } from "node:path";
import { conditionId } from "../conditions/ids.ts";
import { atoms } from "../conditions/parts.ts";
import { parseConfig, type RunConfig } from "../config/load.ts";
import { readYaml } from "../config/yaml.ts";
import { SparkablateError } from "../errors.ts";
import type { EarlierRun } from "../plan/pairs.ts";
import type { RunFacts } from "../results/facts.ts";
import { rankRows } from "../results/ranking.ts";
import { readRun } from "../store/run-directory.ts";

/** The config of the run in `directory`, which may have been moved since. */
export const configOfRun = (directory: string, facts: RunFacts): RunConfig => ({
  ...parseConfig(facts.config, join(directory, "config.yaml")),
  output: { dir: resolve(directory) },
});

/** The direction files that a run's config names, in order of use; its model and its texts may be gone. */
export function directionsOfRun({ config }: RunFacts): string[] {
  const { value } = readYaml(config, (line) => `config.yaml:${line}`);
  const { targets, directions, given } = (value as { ablation?: Record<string, unknown> }).ablation ?? {};
  return [targets, directions, given]
    .flat(2)
    .flatMap((spec) =>
      typeof spec === "object" && spec !== null && "path" in spec && typeof spec.path === "string"
        ? [spec.path]
        : [],
    );
}

/** @throws SparkablateError input_missing for a run that is not finished: its ranking would still change. */
export function readEarlier({
  ablation: { from },
}: RunConfig): (EarlierRun & { weights_sha256: string }) | null {
  if (from === null) return null;
  const { rows, facts } = readRun(from);
  if (facts.finished === null) {
    throw new SparkablateError("input_missing", `ablation.from: ${from} is not finished`, {
      help: "Finish it first, with the same 'sparkablate run' command; its ranking would still change.",
    });
  }
  return {
    components: rankRows(rows)
      .filter(({ delta_nll }) => delta_nll !== null)
      .map(({ interventions }) => interventions.flatMap(atoms))
      .flatMap((edits) => (edits.length === 1 ? edits : [])),
    weights_sha256: facts.weights_sha256,
    ...(facts.given !== undefined && { given: conditionId(facts.given) }),
  };
}
