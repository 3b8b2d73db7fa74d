/** `npm run test:full`: what takes SmolLM2 and many minutes. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/full/**/*.full.ts"],
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 1_800_000,
    hookTimeout: 600_000,
  },
});
