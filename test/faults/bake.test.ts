/** SIGKILL at any time during a bake: the target is absent, or complete and certified. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it } from "vitest";
import { baked } from "../fixtures/baking.ts";
import { cli, processesOf, scratch, tinyModel, until } from "../fixtures/harness.ts";
import { random, repeatable, rounds } from "../fixtures/rounds.ts";

/** Kills. */
const ROUNDS = rounds(2);
const EDIT = ["--kind", "layer", "--layer", "1"];

/** Whether the directory is there; fails unless it is whole then. */
function whole(directory: string): boolean {
  if (!existsSync(directory)) return false;
  const record = JSON.parse(readFileSync(join(directory, "sparkablate_bake.json"), "utf8"));
  expect(record.certificate.passed).toBe(true);
  expect(readdirSync(directory).sort()).toEqual(
    [...Object.keys(record.files), "sparkablate_bake.json"].sort(),
  );
  for (const [name, digest] of Object.entries(record.files)) {
    const found = createHash("sha256")
      .update(readFileSync(join(directory, name)))
      .digest("hex");
    expect(found, name).toBe(digest);
  }
  return true;
}

it("Ctrl-C removes what was half-written, exit code 130", { timeout: 240_000 }, async () => {
  const parent = scratch();
  const args = ["bake", "-m", tinyModel(), "--threads", "1", ...EDIT, "--out", join(parent, "out"), "-q"];
  const run = cli(args, { mark: parent });
  await until(() => existsSync(join(parent, ".out.sparkablate-bake")), 110, "the bake begins");
  run.kill("SIGINT");
  const { exitCode, stderr } = await run;
  expect(exitCode, String(stderr)).toBe(130);
  expect(readdirSync(parent)).toEqual([]);
  expect(processesOf(parent)).toEqual([]);
});

it(`leaves the target absent or whole, ${ROUNDS} kills at random ${repeatable}`, {
  timeout: 120_000 + ROUNDS * 120_000,
}, async () => {
  const model = tinyModel();
  const parent = scratch();
  const out = join(parent, "out");
  const work = join(parent, ".out.sparkablate-bake");
  const start = () =>
    cli(["bake", "-m", model, "--threads", "1", ...EDIT, "--force", "--out", out, "-q"], { mark: parent });

  const first = start();
  await until(() => existsSync(work), 110, "the bake begins");
  const began = Date.now();
  expect((await first).exitCode).toBe(0);
  const window = Date.now() - began;
  expect(whole(out)).toBe(true);

  const seen = { absent: 0, whole: 0 };
  for (let round = 0; round < ROUNDS; round++) {
    // In every other round an earlier result is there, and has to survive or be replaced as a whole.
    const earlier = round % 2 === 1;
    if (earlier) expect(whole(out) || (await start()).exitCode === 0).toBe(true);
    else rmSync(out, { recursive: true, force: true });
    const run = start();
    const ended = run.then(({ exitCode, stderr }) => {
      throw new Error(`round ${round} ended before its bake began, exit code ${exitCode}: ${stderr}`);
    });
    await Promise.race([ended, until(() => existsSync(work), 110, "the bake begins")]);
    ended.catch(() => undefined);
    await sleep(random("bake", round) * window);
    for (const { pid } of processesOf(parent)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch (error) {
        expect((error as NodeJS.ErrnoException).code).toBe("ESRCH"); // it had ended
      }
    }
    await run;
    await until(() => processesOf(parent).length === 0, 50, "the checking process follows the others");
    seen[whole(out) ? "whole" : "absent"]++;
    const beside = readdirSync(parent).filter((name) => name !== "out" && join(parent, name) !== work);
    expect(beside).toEqual([]);
  }
  console.log(`SIGKILL during a bake of ${window} ms: ${JSON.stringify(seen)}`);
  await baked(model, [...EDIT, "--force"], out);
  expect(whole(out)).toBe(true);
  expect(readdirSync(parent)).toEqual(["out"]);
});
