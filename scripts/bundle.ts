/**
 * The command line as a few files: dist/cli/main.js and its chunks, made of what tsc wrote there and of the packages in
 * plain JavaScript. Node takes most of a second to find and open the 800 files that `run` imports otherwise.
 * The library, dist/index.js, stays as it is.
 */
import { renameSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";

/** Native code, what looks for files beside itself, and charts: their plugins register with one copy of chart.js. */
const OUTSIDE = [
  /^@napi-rs\/canvas/,
  /^better-sqlite3/,
  /^canvas/,
  /^chart\.js/,
  /^chartjs-/,
  /^msgpackr/,
  /^zeromq/,
];

const CLI = fileURLToPath(new URL("../dist/cli/", import.meta.url));
const MADE = fileURLToPath(new URL("../dist/cli-bundle/", import.meta.url));

const bundle = await rolldown({ input: `${CLI}main.js`, platform: "node", external: OUTSIDE });
await bundle.write({ dir: MADE, format: "esm", chunkFileNames: "[name]-[hash].js" });
await bundle.close();
rmSync(CLI, { recursive: true });
renameSync(MADE, CLI);
