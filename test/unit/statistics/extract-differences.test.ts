import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { extract } from "../../../scripts/extract-differences.ts";
import type { ConditionMeasurements } from "../../../src/results/row.ts";
import { condition, facts, head, measured } from "../planted.ts";
import { plantRun } from "../planted-run.ts";

const scratch = mkdtempSync(join(tmpdir(), "differences-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const baseline = measured(condition("baseline"), [3, 4, 5]);

function extracted(name: string, conditions: readonly ConditionMeasurements[]) {
  const directory = join(scratch, name);
  plantRun(directory, facts(), baseline, conditions);
  const { differences, ...rest } = extract(directory);
  return {
    ...rest,
    values: [...new Float32Array(Uint8Array.from(Buffer.from(differences, "base64")).buffer)],
  };
}

test("a run's block differences, a condition after the other, on the blocks that all have", () => {
  const { conditions, blocks, values } = extracted("partial", [
    measured(head(0, 1), [3.5, 4.25, 5]),
    measured(head(1, 0), [2, 4]),
  ]);
  expect(conditions).toEqual(["L0.head[1].zero", "L1.head[0].zero"]);
  expect(blocks).toBe(2);
  expect(values).toEqual([0.5, 0.25, -1, 0]);
});

test("a run with a failed condition is refused by its name", () => {
  const failed = measured(head(2, 3), [], { error: { code: "hook_failed", message: "boom" } });
  expect(() => extracted("failed", [failed])).toThrow("L2.head[3].zero failed");
});
