import { describe, expect, it } from "vitest";
import {
  CPU_INDEX,
  chooseBuild,
  describePlan,
  type InstallPlan,
  packageName,
  pinOf,
  pipArguments,
} from "../../../src/environment/torch.ts";

const plan: InstallPlan = {
  build: "cpu",
  requirements: ["numpy>=1.26", "torch>=2.10", "transformers>=5.3"],
  constraints: "# pins\nnumpy==2.4.6\ntorch==2.13.0\ntransformers==5.24.0\n",
  constraintsFile: "/p/constraints.txt",
  indexUrl: undefined,
  cpuIndexReachable: true,
  keep: [],
};
const common = ["install", "--no-input", "--progress-bar", "off"];
const pinned = [...common, "--constraint", "/p/constraints.txt"];
const others = ["numpy>=1.26", "transformers>=5.3"];

describe("chooseBuild", () => {
  it.each([
    ["linux", false, undefined, "cpu"],
    ["linux", true, undefined, "cuda"],
    ["linux", true, "cpu", "cpu"],
    ["linux", false, "cuda", "cuda"],
    ["darwin", false, undefined, "macos"],
    ["darwin", false, "cpu", "macos"],
    ["darwin", false, "existing", "existing"],
    ["linux", true, "existing", "existing"],
  ] as const)("%s, NVIDIA device %s, asked for %s: %s", (platform, nvidia, asked, build) => {
    expect(chooseBuild({ platform, nvidia }, asked)).toBe(build);
  });

  it("refuses CUDA on macOS", () => {
    expect(() => chooseBuild({ platform: "darwin", nvidia: false }, "cuda")).toThrow(
      expect.objectContaining({ code: "usage" }),
    );
  });
});

describe("pipArguments", () => {
  it("takes the CPU build by its local version from PyTorch's index, the rest from pip's own", () => {
    expect(pipArguments(plan)).toEqual([
      ...pinned,
      "--extra-index-url",
      CPU_INDEX,
      "torch==2.13.0+cpu",
      ...others,
    ]);
  });

  it("falls back to pip's own indexes, and says that this may be the CUDA build", () => {
    const alone = { ...plan, cpuIndexReachable: false };
    expect(pipArguments(alone)).toEqual([...pinned, "torch==2.13.0", ...others]);
    expect(describePlan(alone).join("\n")).toMatch(/cannot be reached.*may be the CUDA build/);
    expect(describePlan(plan).join("\n")).not.toMatch(/cannot be reached/);
  });

  it("asks pip's own indexes for the CUDA and the macOS build", () => {
    for (const build of ["cuda", "macos"] as const) {
      expect(pipArguments({ ...plan, build })).toEqual([...pinned, "torch==2.13.0", ...others]);
    }
  });

  it("adds --index-url, whose builds have local versions that satisfy the pin", () => {
    const url = "https://example.org/whl/cu130";
    expect(pipArguments({ ...plan, build: "cuda", indexUrl: url })).toEqual([
      ...pinned,
      "--extra-index-url",
      url,
      "torch==2.13.0",
      ...others,
    ]);
  });

  it("keeps the exact versions of an existing torch, and pins nothing else", () => {
    const keep = ["torch==2.9.0a0+50eac811a6.nv25.9", "numpy==1.26.4"];
    expect(pipArguments({ ...plan, build: "existing", keep })).toEqual([...common, ...keep, ...others]);
  });

  it("leaves torch alone where only other packages are missing", () => {
    expect(pipArguments({ ...plan, requirements: ["pytest>=9"] })).toEqual([...pinned, "pytest>=9"]);
  });

  it("never overrides what pip is configured with", () => {
    for (const build of ["cpu", "cuda", "macos", "existing"] as const) {
      expect(pipArguments({ ...plan, build })).not.toContain("--index-url");
      expect(pipArguments({ ...plan, build })).not.toContain("--isolated");
    }
  });

  it("says choice and size first", () => {
    for (const build of ["cpu", "cuda", "macos", "existing"] as const) {
      expect(describePlan({ ...plan, build })[0]).toMatch(/^torch: .*about [\d.]+ GB to download/);
    }
  });
});

describe("names and pins", () => {
  it("normalises names as the index does", () => {
    expect(packageName("huggingface_hub[torch]>=2; python_version < '3.11'")).toBe("huggingface-hub");
    expect(packageName("torch")).toBe("torch");
    expect(packageName("torch-geometric>=2")).toBe("torch-geometric");
  });

  it("reads a pin without its marker", () => {
    expect(pinOf("numpy", 'numpy==2.4.6; python_version >= "3.11"\n')).toBe("2.4.6");
    expect(() => pinOf("torch", "torchvision==1\n")).toThrow(/does not pin torch/);
  });
});
