/** In which mode a row's sites were edited. */
import type { Mode } from "../../protocol/catalog.ts";
import type { Row } from "../../results/row.ts";

/** The one mode of a row's sites; null for a layer, a direction, the baseline, or several modes. */
export function modeOf({ interventions }: Pick<Row, "interventions">): Mode | null {
  const modes = new Set(
    interventions.flatMap((one) => (one.kind === "layer" || one.kind === "direction" ? [] : [one.mode])),
  );
  const [mode = null] = modes;
  return modes.size === 1 ? mode : null;
}
