/** Which build of torch, and the pip arguments for it: pure. */
import { SparkablateError } from "../errors.ts";

export type TorchBuild = "cpu" | "cuda" | "macos" | "existing";
export const TORCH_CHOICES = ["cpu", "cuda", "existing"] as const;
export type TorchChoice = (typeof TORCH_CHOICES)[number];

export const CPU_INDEX = "https://download.pytorch.org/whl/cpu";

export interface Machine {
  readonly platform: string;
  readonly nvidia: boolean;
}

/** Throws `usage` for a build that the platform does not have. */
export function chooseBuild(machine: Machine, asked: TorchChoice | undefined): TorchBuild {
  if (asked === "existing") return "existing";
  if (machine.platform === "darwin") {
    if (asked === "cuda")
      throw new SparkablateError("usage", "--torch cuda: macOS has no CUDA build of torch");
    return "macos";
  }
  return asked ?? (machine.nvidia ? "cuda" : "cpu");
}

/** To download and on disk, all packages together. The CPU build was measured, the others are estimates. */
export const SIZES: Readonly<Record<TorchBuild, { download_gb: number; disk_gb: number }>> = {
  cpu: { download_gb: 0.4, disk_gb: 1.6 },
  cuda: { download_gb: 3, disk_gb: 7 },
  macos: { download_gb: 0.3, disk_gb: 1.3 },
  existing: { download_gb: 0.2, disk_gb: 0.6 },
};

export interface InstallPlan {
  readonly build: TorchBuild;
  /** Of pyproject.toml's, those that are missing; torch among them where the environment is new. */
  readonly requirements: readonly string[];
  /** Text of constraints.txt, and where it is. */
  readonly constraints: string;
  readonly constraintsFile: string;
  /** --index-url: where to take torch from, besides pip's own indexes. */
  readonly indexUrl: string | undefined;
  readonly cpuIndexReachable: boolean;
  /** `existing` only: exact versions (name==version) that must stay as they are. */
  readonly keep: readonly string[];
}

/**
 * The arguments after `pip`. pip's own configuration (mirrors, wheel folders, proxies) always holds; an index of
 * PyTorch's is only added to it, and there the local version (+cpu) names the build.
 */
export function pipArguments(plan: InstallPlan): string[] {
  const common = ["install", "--no-input", "--progress-bar", "off"];
  const others = plan.requirements.filter((requirement) => packageName(requirement) !== "torch");
  if (plan.build === "existing") {
    // Ranges only: a container's own pins (NGC's /etc/pip/constraint.txt) would contradict ours.
    return [...common, ...plan.keep, ...others];
  }
  const pinned = [...common, "--constraint", plan.constraintsFile];
  if (others.length === plan.requirements.length) return [...pinned, ...others];
  const torch = `torch==${pinOf("torch", plan.constraints)}`;
  if (plan.indexUrl !== undefined) return [...pinned, "--extra-index-url", plan.indexUrl, torch, ...others];
  if (plan.build === "cpu" && plan.cpuIndexReachable) {
    return [...pinned, "--extra-index-url", CPU_INDEX, `${torch}+cpu`, ...others];
  }
  return [...pinned, torch, ...others];
}

/** The choice and its size, and what is not as one would expect; said before anything is installed. */
export function describePlan(plan: InstallPlan): string[] {
  const { download_gb, disk_gb } = SIZES[plan.build];
  const size = `about ${download_gb} GB to download, ${disk_gb} GB on disk`;
  const lines = {
    cpu: [`torch: the CPU build (no NVIDIA device was found, or --torch cpu); ${size}`],
    cuda: [`torch: the CUDA build; ${size}`],
    macos: [`torch: the macOS build; ${size}`],
    existing: [
      `torch: the one that is there is kept; ${size} for the other packages`,
      "the other packages are not pinned: they must fit what is there",
    ],
  }[plan.build];
  if (plan.build === "cpu" && plan.indexUrl === undefined && !plan.cpuIndexReachable) {
    lines.push(
      `${CPU_INDEX} cannot be reached: torch comes from pip's own indexes, where it may be the CUDA build` +
        ` (${SIZES.cuda.download_gb} GB)`,
    );
  }
  return lines;
}

/** The pinned version of a package. */
export function pinOf(name: string, constraints: string): string {
  const line = constraints.split("\n").find((text) => text.startsWith(`${name}==`));
  if (line === undefined) throw new SparkablateError("internal", `constraints.txt does not pin ${name}`);
  return (
    line
      .slice(name.length + 2)
      .split(";", 1)[0]
      ?.trim() ?? ""
  );
}

/** "huggingface_hub[x]>=2" → "huggingface-hub". */
export function packageName(requirement: string): string {
  return (/^[A-Za-z0-9._-]+/.exec(requirement.trim())?.[0] ?? "").toLowerCase().replaceAll(/[._-]+/g, "-");
}
