import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files of tests that start processes come first: at the end short ones fill both cores. */
class LongFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification): boolean => /\/test\/(e2e|faults)\//.test(moduleId);
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

/** Tests start real processes; two cores are shared by vitest and the workers it starts. */
const PROJECTS = {
  // `npm test`
  ci: { include: ["test/**/*.test.ts"], testTimeout: 180_000, hookTimeout: 120_000 },
  // `npm run test:full` and `test:container`: what takes SmolLM2, an engine, and many minutes.
  full: {
    include: ["test/full/**/*.full.ts", "test/container/**/*.full.ts"],
    testTimeout: 1_800_000,
    hookTimeout: 600_000,
  },
  // `npm run release:check`, after the checks: packages made, installed in empty places, and used there.
  release: { include: ["test/release/**/*.release.ts"], testTimeout: 1_200_000, hookTimeout: 600_000 },
};

export default defineConfig({
  test: {
    pool: "forks",
    maxWorkers: 2,
    sequence: { sequencer: LongFirst },
    projects: Object.entries(PROJECTS).map(([name, test]) => ({ extends: true, test: { name, ...test } })),
  },
});
