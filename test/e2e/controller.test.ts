/** The public API from a script outside the project, as a user would write it. */
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { processesOf, scratch, sweepFile, tinyModel } from "../fixtures/harness.ts";

const SCRIPT = `import { Controller, loadConfig, type Row } from "sparkablate";

const controller = new Controller();
const seen: string[] = [];
for await (const row of controller.run(loadConfig(process.argv[2] ?? ""))) {
  const { condition, blocks }: Row = row;
  seen.push(\`\${condition} \${blocks}\`);
  if (seen.length === 3) break;
}
console.log(JSON.stringify({ seen, worker: controller.workerPid !== null }));
await controller.close();
`;

it("iterates rows, breaks off, closes: the process ends, no child is left, strict types check", {
  timeout: 120_000,
}, async () => {
  const directory = scratch();
  mkdirSync(join(directory, "node_modules"));
  symlinkSync(packageRoot(), join(directory, "node_modules", "sparkablate"));
  const script = join(directory, "script.mts");
  writeFileSync(script, SCRIPT);
  writeFileSync(
    join(directory, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        strict: true,
        module: "nodenext",
        target: "es2024",
        noEmit: true,
        types: ["node"],
        typeRoots: [join(packageRoot(), "node_modules", "@types")],
      },
      files: ["script.mts"],
    }),
  );
  const typescript = join(packageRoot(), "node_modules", "typescript-7", "bin", "tsc");
  const types = await execa(process.execPath, [typescript, "-p", directory], { reject: false });
  expect(types.stdout).toBe("");

  const config = sweepFile(directory, { model: tinyModel(), output: join(directory, "out") });
  const ran = await execa(process.execPath, [script, config], {
    env: { SPARKABLATE_TEST_MARK: directory },
    reject: false,
    timeout: 60_000,
  });
  expect(ran.exitCode, ran.stderr).toBe(0);
  const { seen, worker } = JSON.parse(ran.stdout) as { seen: string[]; worker: boolean };
  expect(worker).toBe(true);
  expect(new Set(seen).size).toBe(3);
  for (const row of seen) expect(row).toMatch(/^(baseline|L[0-3]\.layer\.skip) 4$/);
  expect(processesOf(directory)).toEqual([]);
});
