/** Layers of a config that are counted from the end: -1 is the model's last. */
import type { RunConfig } from "../config/load.ts";
import { asWritten, type Path } from "../config/problems.ts";

type Refuse = (path: Path, message: string) => void;

/** The config with every layer counted from 0; of one that does not exist is complained, and it stays. */
export function countedFromFront(config: RunConfig, count: number, refuse: Refuse): RunConfig {
  const { ablation } = config;
  if (!countsFromEnd(ablation)) return config;
  const one = (layer: number, path: Path): number => {
    if (layer >= 0) return layer;
    if (layer < -count)
      refuse(
        path,
        `layer ${layer} does not exist; allowed: from -${count} to ${count - 1} (the model has ${count} layers)`,
      );
    return layer + count;
  };
  const list = <L extends readonly number[] | "all" | null>(layers: L, path: Path): L => {
    if (layers === null || layers === "all" || layers.every((layer) => layer >= 0)) return layers;
    const counted = (layers as readonly number[]).map((layer) => one(layer, path));
    return [...new Set(counted)].sort((a, b) => a - b) as unknown as L;
  };
  const spec = <S extends object>(written: S, path: Path): S => {
    if ("layer" in written && typeof written.layer === "number" && written.layer < 0)
      return asWritten(written, { ...written, layer: one(written.layer, [...path, "layer"]) });
    if ("layers" in written)
      return asWritten(written, {
        ...written,
        layers: list(written.layers as number[] | "all" | null, [...path, "layers"]),
      });
    return written;
  };
  const entries = <S extends object>(key: string, listed: readonly (readonly S[])[]): S[][] =>
    listed.map((specs, index) => {
      const path = ["ablation", key, index];
      return asWritten(
        specs,
        specs.map((written, part) => spec(written, specs.length > 1 ? [...path, part] : path)),
      );
    });
  return asWritten(config, {
    ...config,
    ablation: asWritten(ablation, {
      ...ablation,
      layers: list(ablation.layers, ["ablation", "layers"]),
      targets: entries("targets", ablation.targets),
      ...(ablation.given !== undefined && { given: entries("given", ablation.given) }),
      directions: ablation.directions.map((written, index) =>
        spec(written, ["ablation", "directions", index]),
      ),
    }),
  });
}

const countsFromEnd = ({ layers, targets, directions, given = [] }: RunConfig["ablation"]): boolean => {
  const negative = (listed: readonly number[] | "all" | null): boolean =>
    listed !== null && listed !== "all" && listed.some((layer) => layer < 0);
  return (
    negative(layers) ||
    [...targets, ...given].some((specs) =>
      specs.some((spec) => ("layer" in spec ? spec.layer < 0 : negative(spec.layers))),
    ) ||
    directions.some((spec) => negative(spec.layers))
  );
};
