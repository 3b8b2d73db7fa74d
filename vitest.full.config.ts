/** `npm run test:full` and `test:container`: what takes SmolLM2, an engine, and many minutes. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/full/**/*.full.ts", "test/container/**/*.full.ts"],
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 1_800_000,
    hookTimeout: 600_000,
  },
});
