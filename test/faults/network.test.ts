/** The authenticated wire from another network namespace: who has no listed key reaches nothing, who has one is served. */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { expect, onTestFinished } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { makeKeyPair } from "../../src/link/channel.ts";
import {
  cli,
  LAUNCHER,
  processesOf,
  scratch,
  sweepFile,
  table,
  tinyModel,
  until,
} from "../fixtures/harness.ts";
import { needing } from "../fixtures/require.ts";

/** Of this process alone: two runs of the tests on one machine must not meet. */
const NET = `10.231.${process.pid % 256}`;
const OURS = `${NET}.1`;
const THEIRS = `${NET}.2`;
const PORT = 5757;
const ADDRESS = `tcp://${OURS}:${PORT}`;
const SPACE = `sparkablate-${process.pid}`;
const WIRE = `spark${process.pid % 1e6}`;

const ip = (...args: string[]): string => execFileSync("ip", args, { encoding: "utf8", stdio: "pipe" });

/** A namespace at the other end of a cable. What a killed test left would answer at the same addresses. */
function connectNamespace(): void {
  for (const [name, pid] of ip("netns", "list").matchAll(/^sparkablate-(\d+)/gm))
    if (!existsSync(`/proc/${pid}`)) ip("netns", "delete", name);
  ip("netns", "add", SPACE);
  ip("link", "add", WIRE, "type", "veth", "peer", "name", "eth0", "netns", SPACE);
  ip("address", "add", `${OURS}/30`, "dev", WIRE);
  ip("link", "set", WIRE, "up");
  for (const command of [`address add ${THEIRS}/30 dev eth0`, "link set eth0 up", "link set lo up"])
    ip("-n", SPACE, ...command.split(" "));
}

/** The cable first: what a deleted namespace holds goes later, in the background, and its name is wanted again. */
function disconnect(): void {
  for (const command of [`link delete ${WIRE}`, `netns delete ${SPACE}`]) {
    try {
      ip(...command.split(" "));
    } catch {
      // it was never there
    }
  }
}

function possible(): boolean {
  try {
    connectNamespace();
    return true;
  } catch {
    return false;
  } finally {
    disconnect();
  }
}

/** A command inside the namespace. */
const inside = (command: readonly string[], options: object = {}) =>
  execa("ip", ["netns", "exec", SPACE, ...command], { reject: false, ...options });

needing("netns", possible, "network namespaces need root and iproute2")(
  "strangers reach no handler, an honest controller is served meanwhile, and no key is to be seen",
  { timeout: 600_000 },
  async () => {
    const directory = scratch();
    const keys = join(directory, "keys");
    const env = { SPARKABLATE_KEYS: keys, OMP_NUM_THREADS: "1" };
    connectNamespace();
    onTestFinished(disconnect);

    const refused = await cli(["worker", "--bind", ADDRESS], { env });
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain("worker.key does not exist");
    expect(refused.stderr).toContain(`Run 'sparkablate keys init`);
    expect((await cli(["keys", "init"], { env })).exitCode).toBe(0);
    const secrets = readdirSync(keys).map((name) => readFileSync(join(keys, name), "utf8").trim());
    expect(secrets).toHaveLength(4);

    let log = "";
    const worker = cli(["worker", "--bind", ADDRESS], { env, mark: directory });
    worker.stderr?.on("data", (chunk) => {
      log += chunk;
    });
    // Killed, the command would leave the worker itself behind, and with it the port.
    onTestFinished(async () => {
      worker.kill("SIGTERM");
      await worker;
      expect(processesOf(directory)).toEqual([]);
    });
    await until(() => log.includes("listening on"), 180, `the worker starts: ${log}`);

    const read = (name: string): string => readFileSync(join(keys, name), "utf8").trim();
    const stranger = inside(
      [process.execPath, join(packageRoot(), "test", "fixtures", "stranger.ts"), OURS, String(PORT)],
      {
        input: JSON.stringify({
          worker: read("worker.pub"),
          listed: { publicKey: read("controller.pub"), secretKey: read("controller.key") },
          unlisted: makeKeyPair(),
        }),
      },
    );
    onTestFinished(() => void stranger.kill("SIGKILL"));
    let seen = "";
    stranger.stdout?.on("data", (chunk) => {
      seen += chunk;
    });
    await until(() => seen.includes("\n"), 120, `the stranger's attempts: ${seen}`);
    expect(JSON.parse(seen)).toEqual({
      no_mechanism: "handshake failed",
      unlisted_key: "handshake failed",
      wrong_server_key: "handshake failed",
      http: "no HTTP",
      garbage: "no HTTP",
      idle: 500,
    });

    // A hello that had come through would hold the worker now.
    const output = join(directory, "out");
    const config = sweepFile(directory, { model: tinyModel(), output, batches: 1 });
    const run = await inside(
      [process.execPath, LAUNCHER, "run", "-c", config, "--worker", ADDRESS, "--no-plots"],
      { env },
    );
    expect(run.exitCode, String(run.stderr)).toBe(0);
    expect(table(output).every(({ status }) => status === "done")).toBe(true);

    // Who has other keys, or none, is told so at once.
    const other = { ...env, SPARKABLATE_KEYS: join(directory, "other") };
    const asked = ["inspect", "-m", tinyModel(), "--worker", ADDRESS];
    const without = await inside([process.execPath, LAUNCHER, ...asked], { env: other });
    expect(without.exitCode).toBe(2);
    expect(without.stderr).toContain("Run 'sparkablate keys init");
    await cli(["keys", "init"], { env: other });
    execFileSync("cp", [join(keys, "worker.pub"), other.SPARKABLATE_KEYS]);
    const unlisted = await inside([process.execPath, LAUNCHER, ...asked], { env: other });
    expect(unlisted.exitCode).toBe(3);
    expect(unlisted.stderr).toContain("does not list this controller's key");

    const shown = [
      log,
      ...processesOf(directory).map(
        ({ pid }) =>
          readFileSync(`/proc/${pid}/cmdline`, "latin1") + readFileSync(`/proc/${pid}/environ`, "latin1"),
      ),
      ...readdirSync(output, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1")),
      String(run.stderr) + String(unlisted.stderr),
    ];
    expect(shown.length).toBeGreaterThan(5);
    for (const secret of secrets) for (const text of shown) expect(text).not.toContain(secret);
  },
);
