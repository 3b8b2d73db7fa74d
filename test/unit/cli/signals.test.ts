/** One press is one press, whichever process its signals reach, and however many there are. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { execa } from "execa";
import { expect, it, onTestFinished } from "vitest";
import { packageRoot } from "../../../src/environment/environment.ts";
import { LAUNCHER, until } from "../../fixtures/harness.ts";

const PRESSES = join(packageRoot(), "test", "fixtures", "presses.ts");

/** A launcher with the command beside it, in a group of their own as a terminal would have them. */
async function launched() {
  const script = `require(${JSON.stringify(LAUNCHER)}).runHere(process.execPath, [${JSON.stringify(PRESSES)}]).then(process.exit)`;
  return await started(["-e", script]);
}

async function started(args: readonly string[]) {
  const launcher = execa(process.execPath, args, { reject: false, detached: true, buffer: false });
  let said = "";
  launcher.stdout.on("data", (chunk) => {
    said += chunk;
  });
  onTestFinished(() => void launcher.kill("SIGKILL"));
  const pid = Number(await until(() => /^ready (\d+)$/m.exec(said)?.[1], 30, "it is ready"));
  const says = (text: string) => until(() => said.includes(text), 10, `${text}: ${said}`);
  return { launcher, pid, says, said: () => said, launcherPid: launcher.pid as number };
}

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

it("a terminal's Ctrl-C, to launcher and command alike, is one", { timeout: 60_000 }, async () => {
  const { launcher, launcherPid, says, said } = await launched();
  for (const press of [1, 2, 3]) {
    process.kill(-launcherPid, "SIGINT");
    await says(`press ${press}`);
    await sleep(200);
    expect(said()).not.toContain(`press ${press + 1}`);
  }
  process.kill(-launcherPid, "SIGINT");
  expect((await launcher).exitCode).toBe(130);
});

it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
  "%s to the launcher alone counts, and to both counts once",
  {
    timeout: 60_000,
  },
  async (signal) => {
    const { launcherPid, pid, says, said } = await launched();
    process.kill(launcherPid, signal);
    await says("press 1");
    await sleep(200);
    process.kill(-launcherPid, signal);
    await says("press 2");
    process.kill(pid, signal);
    await sleep(200);
    expect(said()).not.toContain("press 3");
  },
);

it("npm with bash as its shell passes a terminal's signal on a second time: still one", {
  timeout: 60_000,
}, async () => {
  const { pid, says, said } = await started([PRESSES]);
  process.kill(pid, "SIGINT");
  await sleep(5);
  process.kill(pid, "SIGINT");
  await says("press 1");
  await sleep(200);
  expect(said()).not.toContain("press 2");
  process.kill(pid, "SIGTERM");
  await says("press 2");
});

it("what kills the launcher ends the command", { timeout: 60_000 }, async () => {
  const { launcher, pid } = await launched();
  launcher.kill("SIGKILL");
  await expect.poll(() => alive(pid), { timeout: 10_000 }).toBe(false);
});

it("the command learns of a signal that came before it listened", { timeout: 60_000 }, async () => {
  const child = spawn(process.execPath, [PRESSES], { stdio: ["ignore", "pipe", "ignore", "ipc"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  child.send({ interrupts: 1 });
  let said = "";
  child.stdout?.on("data", (chunk) => {
    said += chunk;
  });
  await until(() => said.includes("press 1"), 30, "the press is counted");
});
