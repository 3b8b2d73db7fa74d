/** The compose service where there is no engine, and where its directories may not be. */
import { mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { beforeEach, expect, it, onTestFinished, vi } from "vitest";
import { makeKeyPair } from "../../../src/link/channel.ts";
import { containerAddress, containerUp, containerWorker } from "../../../src/link/container.ts";
import { writeKeys } from "../../../src/link/keys.ts";
import { scratch } from "../../fixtures/harness.ts";

const say = () => undefined;

beforeEach(() => {
  const directory = scratch();
  for (const name of ["SPARKABLATE_RUN", "SPARKABLATE_MODELS", "SPARKABLATE_KEYS", "HF_HOME"])
    vi.stubEnv(name, join(directory, name));
  vi.stubEnv("PATH", join(directory, "nothing"));
  return () => vi.unstubAllEnvs();
});

it("says what to install where there is no engine", async () => {
  await expect(containerUp({ transport: "ipc", say })).rejects.toMatchObject({
    code: "environment_missing",
    message: "neither 'docker compose' nor 'docker-compose' runs",
    help: expect.stringContaining("Install Docker"),
  });
});

it("wants keys before it starts anything over TCP", async () => {
  const missing = { code: "input_missing", help: expect.stringContaining("sparkablate keys init") };
  await expect(containerUp({ transport: "tcp", say })).rejects.toMatchObject(missing);
  writeKeys(process.env.SPARKABLATE_KEYS ?? "", makeKeyPair, false);
  await expect(containerUp({ transport: "tcp", say })).rejects.toMatchObject({ code: "environment_missing" });
});

it("names the socket or the port, and refuses a path that no socket can have", () => {
  vi.stubEnv("SPARKABLATE_PORT", "6000");
  expect(containerAddress({ transport: "tcp" })).toBe("tcp://127.0.0.1:6000");
  expect(containerAddress({ transport: "ipc" })).toBe(`ipc://${process.env.SPARKABLATE_RUN}/worker.sock`);
  const long = join(scratch(), "l".repeat(100));
  mkdirSync(long);
  vi.stubEnv("SPARKABLATE_RUN", long);
  expect(() => containerAddress({ transport: "ipc" })).toThrow(
    expect.objectContaining({ code: "usage", help: expect.stringContaining("SPARKABLATE_RUN") }),
  );
});

it("starts nothing where the worker listens already, whatever its directory is called", async () => {
  const run = join(scratch(), "José's models");
  mkdirSync(run);
  vi.stubEnv("SPARKABLATE_RUN", run);
  const listening = createServer((peer) => peer.end());
  onTestFinished(() => void listening.close());
  await new Promise<void>((ready) => listening.listen(join(run, "worker.sock"), ready));
  expect(await containerWorker({ transport: "ipc", say })).toBe(`ipc://${run}/worker.sock`);
});
