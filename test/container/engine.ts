/** A container engine and a base image for the container test, on a machine that has neither and can pull nothing. */
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, openSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { resolveEnvironment, sparkablateHome } from "../../src/environment/environment.ts";
import { until } from "../fixtures/harness.ts";

const ROOT = (): string => join(sparkablateHome(), "test-container");
const IMAGE = "sparkablate-test-base";

/** Packages of Debian that the test asks for where a program is missing. */
const NEEDED = { dockerd: "docker.io", debootstrap: "debootstrap" } as const;

export interface Engine {
  /** For DOCKER_HOST. */
  readonly host: string;
  readonly stop: () => void;
}

/** $DOCKER_HOST, or an engine of our own without networks of containers, which many machines forbid. */
export async function startEngine(): Promise<Engine> {
  const { DOCKER_HOST } = process.env;
  if (DOCKER_HOST) return { host: DOCKER_HOST, stop: () => undefined };
  for (const [program, name] of Object.entries(NEEDED))
    if (!has(program)) throw new Error(`${program} is missing: apt-get install ${name} docker-compose`);
  mkdirSync(ROOT(), { recursive: true });
  const host = `unix://${ROOT()}/engine.sock`;
  const log = join(ROOT(), "engine.log");
  const output = openSync(log, "w");
  const engine = spawn(
    "dockerd",
    [
      ["--data-root", join(ROOT(), "data")],
      ["--exec-root", join(ROOT(), "exec")],
      ["--pidfile", join(ROOT(), "engine.pid")],
      ["--host", host],
      ["--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false"],
    ].flat(),
    { stdio: ["ignore", output, output] },
  );
  const listening = () => {
    if (engine.exitCode !== null) throw new Error(`dockerd ended:\n${readFileSync(log, "utf8")}`);
    return readFileSync(log, "utf8").includes("API listen on");
  };
  await until(listening, 120, `dockerd listens: ${log}`);
  return { host, stop: () => void engine.kill("SIGTERM") };
}

function has(program: string): boolean {
  try {
    execFileSync("which", [program], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
}

/** Debian with its Python and torch, as NVIDIA's image is Ubuntu with its Python and torch; made once. */
export async function baseImage(host: string): Promise<string> {
  const env = { DOCKER_HOST: host };
  const there = await execa("docker", ["image", "inspect", IMAGE], { env, reject: false });
  if (!there.failed) return IMAGE;
  const root = join(ROOT(), "base");
  const show = { stdio: ["ignore", "inherit", "inherit"] } as const;
  rmSync(root, { recursive: true, force: true });
  const suite = /VERSION_CODENAME=(\w+)/.exec(readFileSync("/etc/os-release", "utf8"))?.[1] ?? "stable";
  await execa(
    "debootstrap",
    ["--variant=minbase", "--include=python3,python3-pip,ca-certificates", suite, root],
    show,
  );
  // The registries that this machine's pip is configured with, and what it trusts.
  for (const file of ["/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"])
    if (existsSync(file)) copyFileSync(file, join(root, file));
  const { python } = resolveEnvironment();
  const minor = (interpreter: readonly string[]): string =>
    execFileSync(
      interpreter[0] as string,
      [...interpreter.slice(1), "-c", "import sys; print(sys.version_info[1])"],
      {
        encoding: "utf8",
      },
    ).trim();
  const [ours, theirs] = [minor([python]), minor(["chroot", root, "/usr/bin/python3"])];
  if (ours !== theirs)
    throw new Error(
      `the environment has Python 3.${ours}, Debian ${suite} 3.${theirs}: sparkablate setup --python python3.${theirs}`,
    );
  const constraints = join(import.meta.dirname, "..", "..", "worker", "constraints.txt");
  const target = join(root, "usr", "local", "lib", `python3.${ours}`, "dist-packages");
  const pip = ["-m", "pip", "install", "--no-input", "--constraint", constraints, "--target", target];
  // The rest is for the image's own build to install.
  await execa(python, [...pip, "torch", "numpy", "transformers", "safetensors"], show);
  await execa("bash", ["-c", `tar -C ${root} -c . | docker import - ${IMAGE}`], { ...show, env });
  rmSync(root, { recursive: true });
  return IMAGE;
}
