/** Chart definitions → PNG at twice the size, for print. */
import { createRequire } from "node:module";
import { GlobalFonts } from "@napi-rs/canvas";
import { ChartJSNodeCanvas } from "chartjs-node-canvas";
import type { ChartDefinition } from "./chart.ts";
import type { Theme } from "./drawing/tools.ts";
import { drawing } from "./drawing.ts";

/** The package's own font: a bare container has none, and text would come out blank. */
const FONT = "sparkablate DejaVu Sans";
const FONT_FILES = ["400-normal", "700-normal"].map(
  (style) => `@fontsource/dejavu-sans/files/dejavu-sans-latin-${style}.woff2`,
);
const PAPER: Theme = {
  background: "#ffffff",
  text: "#1a1a1a",
  muted: "#595959",
  grid: "#e3e3e3",
  font: `"${FONT}"`,
};
const PIXEL_RATIO = 2;

export function renderPng(definition: ChartDefinition): Buffer {
  registerFont();
  const { width, height } = definition;
  const canvas = new ChartJSNodeCanvas({
    width,
    height,
    plugins: { modern: ["chartjs-chart-matrix", "chartjs-chart-error-bars"] },
  });
  const configuration = drawing()(definition, { theme: PAPER, framed: true, masked: false });
  configuration.options = { ...configuration.options, devicePixelRatio: PIXEL_RATIO };
  return canvas.renderToBufferSync(configuration);
}

function registerFont(): void {
  if (GlobalFonts.has(FONT)) return;
  const { resolve } = createRequire(import.meta.url);
  for (const file of FONT_FILES) {
    if (GlobalFonts.registerFromPath(resolve(file), FONT) === null) {
      throw new Error(`the font ${resolve(file)} could not be read; reinstall the package`);
    }
  }
}
