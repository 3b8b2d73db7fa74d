/** `sparkablate inspect`: a model's map, from its weights or from its configuration alone; or every model type's class. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { parseConfig } from "../config/load.ts";
import { packageRoot } from "../environment/environment.ts";
import { SparkablateError } from "../errors.ts";
import type { ModelMap, Result } from "../protocol/messages.ts";
import { type CommonFlags, controllerFor, type WorkerFlags, withOutput, withWorker } from "./common.ts";
import { interruptible } from "./interrupt.ts";
import { lines, print, printJson, say } from "./terminal.ts";

const WORDS = `
--architectures: reviewed types have a row that was read against transformers' source; for discovered ones a row is found
on the loaded model; either way what is offered is proved at every load. partial: some layers or sites are not offered.
`;

interface InspectFlags extends CommonFlags, WorkerFlags {
  readonly model?: string;
  readonly meta?: true;
  readonly architectures?: true;
}

export function inspectCommand(): Command {
  return withWorker(withOutput(new Command("inspect")))
    .option("-m, --model <name>", "Hugging Face id, local directory, or builtin:smollm2-135m")
    .option("--meta", "use the configuration alone: load no weights, test nothing")
    .option("--architectures", "instead of a model, list every model type and what it offers")
    .addHelpText("after", `${WORDS}\nExample:\n  sparkablate inspect -m builtin:smollm2-135m`)
    .action(async ({ model, meta, architectures, json, ...place }: InspectFlags) => {
      if (architectures) {
        listTypes(json ?? false);
        return;
      }
      if (model === undefined)
        throw new SparkablateError("usage", "a model is missing: give -m MODEL, or --architectures");
      const config = parseConfig(
        JSON.stringify({ model: { name: model, dtype: "float32" } }),
        "--model",
      ).model;
      await using controller = controllerFor(place);
      if (!place.quiet) say(`inspecting ${model} …`);
      const inspected = await interruptible(controller, () =>
        controller.inspect(config, { meta: meta ?? false }),
      );
      if (json) printJson(inspected);
      else print(lines(describe(model, inspected)));
      if (inspected.self_test.some(({ passed }) => !passed)) process.exitCode = 1;
    });
}

/** What became of a tiny model of the type. */
interface TypeClass {
  readonly class: string;
  readonly detail: string;
}

function listTypes(json: boolean): void {
  const path = join(packageRoot(), "worker", "sparkablate", "anatomy", "classes.json");
  const { transformers, types } = JSON.parse(readFileSync(path, "utf8")) as {
    transformers: string;
    types: Readonly<Record<string, TypeClass>>;
  };
  if (json) {
    printJson({ transformers, types });
    return;
  }
  const entries = Object.entries(types);
  const counts = Object.entries(Object.groupBy(entries, ([, type]) => type.class)).map(
    ([name, list]) => `${list?.length} ${name}`,
  );
  const width = Math.max(...entries.map(([name]) => name.length));
  const body = entries.map(
    ([name, type]) => `${name.padEnd(width)}  ${type.class.padEnd(10)}  ${type.detail}`,
  );
  print(
    lines([
      `${entries.length} causal model types of transformers ${transformers}: ${counts.join(", ")}`,
      "",
      ...body,
    ]),
  );
}

/** The model's map from its configuration alone. */
export async function inspectModel(name: string, place: WorkerFlags): Promise<ModelMap> {
  const config = parseConfig(JSON.stringify({ model: { name, dtype: "float32" } }), "--model");
  await using controller = controllerFor(place);
  const { model_map } = await interruptible(controller, () =>
    controller.inspect(config.model, { meta: true }),
  );
  return model_map;
}

function describe(model: string, { model_map, self_test, notices }: Result<"inspect">): string[] {
  const { model_type, n_layers, d_model, vocab_size, max_positions, parameters, layers, discovered } =
    model_map;
  return [
    `${model}: ${model_type}, ${n_layers} layers, d_model ${d_model}, vocabulary ${vocab_size}, ` +
      `${max_positions === null ? "no limit of positions" : `${max_positions} positions`}, ${(parameters / 1e6).toFixed(1)} M parameters`,
    "",
    ...grouped(layers).flatMap(({ first, last, layer }) => [
      `${first === last ? `layer ${first}` : `layers ${first}–${last}`}: ${heads(layer)}; sites: ${layer.sites.join(", ")}`,
      ...Object.entries(layer.modules).map(([name, path]) => `    ${name.padEnd(18)} ${path}`),
    ]),
    "",
    ...(discovered === null
      ? []
      : ["discovered, not reviewed; as a row of the table:", ...discovered.split("\n"), ""]),
    ...notices.map((notice) => `note: ${notice}`),
    ...self_test.map(
      ({ name, passed, detail, refused }) =>
        `${passed ? "passed" : "FAILED"}  ${name}${detail === "" ? "" : `: ${detail}`}${refused.length > 0 ? `; refused: ${refused.join(", ")}` : ""}`,
    ),
  ];
}

type Layer = ModelMap["layers"][number];

const heads = ({ n_heads, n_kv_heads, d_head }: Layer): string =>
  n_heads === 0 ? "no attention heads" : `${n_heads} heads of ${d_head}, ${n_kv_heads} key/value heads`;

/** Neighbouring layers that offer the same; the paths shown are the first one's. */
function grouped(layers: readonly Layer[]): { first: number; last: number; layer: Layer }[] {
  const groups: { first: number; last: number; layer: Layer }[] = [];
  for (const [index, layer] of layers.entries()) {
    const previous = groups.at(-1);
    const offers = ({ sites, n_heads, n_kv_heads, d_head, modules }: Layer): string =>
      JSON.stringify([sites, n_heads, n_kv_heads, d_head, Object.keys(modules)]);
    if (previous !== undefined && offers(previous.layer) === offers(layer)) previous.last = index;
    else groups.push({ first: index, last: index, layer });
  }
  return groups;
}
