/** `npm run release:check`, after the checks: packages made, installed in empty places, and used there. */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/release/**/*.release.ts"],
    pool: "forks",
    maxWorkers: 1,
    testTimeout: 1_200_000,
    hookTimeout: 600_000,
  },
});
