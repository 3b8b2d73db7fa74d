/** The compose worker from outside: who it runs as, sweep and bake through it, its death, its keys. */
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { composeCommand } from "../../src/link/container.ts";
import { cli, scratch, sweepFile, table, tinyModel, until } from "../fixtures/harness.ts";
import { baseImage, type Engine, startEngine } from "./engine.ts";

/** Nobody's on this machine, and not root. */
const USER = 1000;
/** The engine has no networks: the build uses this machine's, and the worker, which needs none, has none. */
const OVERRIDE = "services: {worker: {build: {network: host}, network_mode: none}}\n";

let engine: Engine;
let here: string;
let env: Record<string, string>;

const docker = async (...args: string[]): Promise<string> => (await execa("docker", args, { env })).stdout;
const id = async (): Promise<string> =>
  docker("ps", "--all", "--quiet", "--filter", "label=com.docker.compose.service=worker");
const inspect = async (container: string, what: string): Promise<string> =>
  docker("inspect", "--format", what, container);
const status = (pid: string): string => readFileSync(`/proc/${pid}/status`, "utf8");

beforeAll(async () => {
  engine = await startEngine();
  here = mkdtempSync(join(tmpdir(), "spc-"));
  chmodSync(here, 0o755);
  for (const name of ["run", "models", "home", "hf"]) {
    mkdirSync(join(here, name));
    chownSync(join(here, name), USER, USER);
  }
  cpSync(tinyModel("--layers", "8", "--width", "256"), join(here, "models", "tiny"), { recursive: true });
  await execa("chown", ["-R", `${USER}:${USER}`, join(here, "models")]);
  writeFileSync(join(here, "override.yaml"), OVERRIDE);
  env = {
    DOCKER_HOST: engine.host,
    COMPOSE_PROJECT_NAME: "sparkablate-test",
    SPARKABLATE_BASE_IMAGE: await baseImage(engine.host),
    SPARKABLATE_COMPOSE: join(here, "override.yaml"),
    SPARKABLATE_RUN: join(here, "run"),
    SPARKABLATE_MODELS: join(here, "models"),
    HF_HOME: join(here, "hf"),
    OMP_NUM_THREADS: "1",
  };
}, 3_600_000);

afterAll(async () => {
  await cli(["docker", "down"], { env });
  rmSync(here, { recursive: true });
  engine.stop();
}, 120_000);

const config = (directory: string, output: string, more: object = {}): string =>
  sweepFile(directory, { model: join(here, "models", "tiny"), output: join(directory, output), ...more });

it("both composes read the files", async () => {
  const command = await composeCommand();
  expect(command).toBeDefined();
  const [program = "", ...first] = command ?? [];
  const files = [
    "-f",
    join(packageRoot(), "compose.yaml"),
    "-f",
    join(packageRoot(), "docker", "compose.gpu.yaml"),
  ];
  const { stdout } = await execa(program, [...first, ...files, "--profile", "tcp", "config"], { env });
  expect(stdout).toContain("nvidia");
});

it("docker up refuses a directory of root's; so does the container itself, with the remedy", async () => {
  const roots = join(here, "roots");
  mkdirSync(roots);
  const up = await cli(["docker", "up"], { env: { ...env, SPARKABLATE_RUN: roots } });
  expect(up.exitCode, String(up.stderr)).toBe(2);
  expect(up.stderr).toContain("belongs to root");
  expect((await cli(["docker", "up"], { env })).exitCode).toBe(0);
  const run = ["run", "--rm", "--network=none", `--volume=${roots}:/run/sparkablate`, "sparkablate-worker"];
  const refused = await execa("docker", [...run, "--bind=ipc:///run/sparkablate/s"], { env, reject: false });
  expect(refused.exitCode).toBe(78);
  expect(refused.stderr).toContain("npx sparkablate docker up");
});

it("runs as the directory's owner, with no rights, behind a directory that is closed to others", async () => {
  const container = await id();
  const pid = await inspect(container, "{{.State.Pid}}");
  expect(status(pid)).toMatch(new RegExp(`^Uid:\\t${USER}\\t${USER}\\t${USER}\\t${USER}$`, "m"));
  expect(status(pid)).toMatch(/^CapEff:\t0+$/m);
  expect(status(pid)).toMatch(/^NoNewPrivs:\t1$/m);
  expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toContain("sparkablate.server");
  expect(statSync(join(here, "run")).mode & 0o777).toBe(0o700);
  expect(await inspect(container, "{{json .NetworkSettings.Ports}}")).toMatch(/^(null|\{\})$/);
  await execa("docker", ["exec", container, "python3", "/opt/sparkablate/docker/healthcheck.py"], { env });
});

it("sweeps and bakes with the host's paths, and gives the numbers that a worker outside gives", async () => {
  const directory = scratch();
  const inside = await cli(["run", "-c", config(directory, "inside"), "--worker", "docker", "--no-plots"], {
    env,
  });
  expect(inside.exitCode, String(inside.stderr)).toBe(0);
  const outside = await cli(["run", "-c", config(directory, "outside"), "--no-plots"], { env });
  expect(outside.exitCode, String(outside.stderr)).toBe(0);
  expect(table(join(directory, "inside"))).toEqual(table(join(directory, "outside")));

  const model = join(here, "models", "tiny");
  const edit = ["--kind", "head", "--layer", "1", "--heads", "2"];
  const out = join(here, "models", "baked");
  const bake = await cli(["bake", "-m", model, ...edit, "--out", out, "--worker", "docker", "--json"], {
    env,
  });
  expect(bake.exitCode, String(bake.stderr)).toBe(0);
  expect(JSON.parse(String(bake.stdout)).directory).toBe(out);
  expect(statSync(join(out, "model.safetensors")).uid).toBe(USER);

  const other = join(directory, "elsewhere");
  for (const args of [
    ["bake", "-m", model, ...edit, "--out", other],
    ["inspect", "-m", tinyModel()],
  ]) {
    const refused = await cli([...args, "--worker", "docker"], { env });
    expect(refused.exitCode).toBe(2);
    expect(refused.stderr).toContain("error (path_not_shared)");
    expect(refused.stderr).toContain(join(here, "models"));
  }
  expect(existsSync(other)).toBe(false);
});

it("killed in the middle of a sweep it comes back, and the table is the same", async () => {
  const directory = scratch();
  const long = { seqLen: 64, batches: 6, ablation: "sweep: heads" };
  const whole = await cli(
    ["run", "-c", config(directory, "whole", long), "--worker", "docker", "--no-plots"],
    { env },
  );
  expect(whole.exitCode, String(whole.stderr)).toBe(0);
  const container = await id();
  const before = Number(await inspect(container, "{{.RestartCount}}"));
  const output = join(directory, "killed");
  const run = cli(["run", "-c", config(directory, "killed", long), "--worker", "docker", "--no-plots"], {
    env,
  });
  const rows = join(output, "results.jsonl");
  await until(
    () => existsSync(rows) && readFileSync(rows, "utf8").split("\n").length > 4,
    120,
    "rows are measured",
  );
  process.kill(Number(await inspect(container, "{{.State.Pid}}")), "SIGKILL");
  const ended = await run;
  expect(ended.exitCode, String(ended.stderr)).toBe(0);
  expect(Number(await inspect(container, "{{.RestartCount}}"))).toBe(before + 1);
  expect(table(output)).toEqual(table(join(directory, "whole")));
});

it("over TCP with keys, of which nothing is to be seen in inspect, logs or the process list", async () => {
  const keys = join(here, "keys");
  const address = "tcp://127.0.0.1:5767";
  const keyed = { ...env, SPARKABLATE_KEYS: keys };
  expect((await cli(["keys", "init"], { env: keyed })).exitCode).toBe(0);
  for (const name of readdirSync(keys)) chownSync(join(keys, name), USER, USER);
  // As compose.yaml's worker-tcp, but on this machine's network: the engine has none to publish a port from.
  const mounts = ["worker.key", "controller.pub"].map(
    (name) => `--volume=${join(keys, name)}:/keys/${name}:ro`,
  );
  const options = ["--detach", "--network=host", "--env=SPARKABLATE_OWNER=/keys/worker.key", ...mounts];
  const container = await docker(
    "run",
    ...options,
    "sparkablate-worker",
    "--bind=tcp://127.0.0.1:5767",
    "--keys=/keys",
  );
  onTestFinished(async () => void (await docker("rm", "--force", container)));
  const asked = ["inspect", "-m", "builtin:smollm2-135m", "--meta", "--worker", address];
  const inspected = await cli(asked, { env: keyed });
  // It got through to the worker, whose home is empty.
  expect(inspected.stderr).toContain("error (environment_missing): builtin:smollm2-135m is not in /cache");
  const pid = await inspect(container, "{{.State.Pid}}");
  expect(status(pid)).toMatch(new RegExp(`^Uid:\\t${USER}\\t`, "m"));
  const logs = await execa("docker", ["logs", container], { env, all: true });
  const shown = [
    await docker("inspect", container),
    logs.all,
    readFileSync(`/proc/${pid}/cmdline`, "latin1"),
    readFileSync(`/proc/${pid}/environ`, "latin1"),
  ];
  const secrets = readdirSync(keys).map((name) => readFileSync(join(keys, name), "utf8").trim());
  for (const secret of secrets) for (const text of shown) expect(text).not.toContain(secret);
});
