/** A worker that dies under a command without a run directory: begun again once; a bake never is. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  type Comparison,
  Controller,
  type OnEvent,
  parseConfig,
  type RunConfig,
  SparkablateError,
} from "../../src/index.ts";
import { scratch, tinyModel } from "../fixtures/harness.ts";

const config = (): RunConfig =>
  parseConfig(
    JSON.stringify({
      model: { name: tinyModel(), dtype: "float32", threads: 1 },
      ablation: { sweep: "custom", targets: [{ kind: "mlp", layer: 1 }] },
      eval: { seq_len: 16, batch_size: 1 },
    }),
    "test",
  );

/** Kills the worker at the first `kills` beginnings of a stage; what happened is in `seen`. */
function killingAt(controller: Controller, stage: string, kills: number): { on: OnEvent; seen: string[] } {
  const seen: string[] = [];
  let left = kills;
  let killed: number | null = null;
  const on: OnEvent = (event) => {
    if (event.type === "restart") seen.push(event.error.code);
    const pid = controller.workerPid;
    if (event.type !== "stage" || event.stage !== stage || left === 0 || pid === killed || pid === null)
      return;
    left--;
    killed = pid;
    process.kill(pid, "SIGKILL");
  };
  return { on, seen };
}

const compare = (controller: Controller, on?: OnEvent): Promise<Comparison> =>
  controller.compare(config(), { prompts: ["A cat", "To be"], max_new_tokens: 12, on });

const withoutSeconds = ({ prompts }: Comparison): unknown =>
  prompts.map(({ texts }) => texts.map(({ seconds, ...text }) => text));

describe("a worker that dies", () => {
  it("under a comparison: the same texts all the same", { timeout: 240_000 }, async () => {
    await using controller = new Controller();
    const expected = withoutSeconds(await compare(controller));
    const { on, seen } = killingAt(controller, "generate", 1);
    expect(withoutSeconds(await compare(controller, on))).toEqual(expected);
    expect(seen).toEqual(["worker_died"]);
  });

  it("twice: the command says so", { timeout: 240_000 }, async () => {
    await using controller = new Controller();
    const { on, seen } = killingAt(controller, "generate", 2);
    await expect(compare(controller, on)).rejects.toMatchObject({ code: "worker_died", exitCode: 3 });
    expect(seen).toEqual(["worker_died"]);
  });

  it("under a bake: nothing is there, and nothing begins again", { timeout: 240_000 }, async () => {
    const directory = scratch();
    const out = join(directory, "out");
    await using controller = new Controller();
    const { on, seen } = killingAt(controller, "live", 2);
    const failed = await controller.bake(config(), { out, on }).catch((error: unknown) => error);
    expect(failed).toBeInstanceOf(SparkablateError);
    expect(failed).toMatchObject({ code: "worker_died" });
    expect(seen).toEqual([]);
    expect(existsSync(out)).toBe(false);
    // The next command has a worker again, and the next bake clears what is left beside the target.
    expect((await compare(controller)).prompts).toHaveLength(2);
    await controller.bake(config(), { out });
    expect(readdirSync(directory)).toEqual(["out"]);
  });
});
