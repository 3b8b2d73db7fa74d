/** `sparkablate docker up|down`: the worker in a container, from the package's own compose file. */
import { Argument, Command } from "commander";
import { containerDown, containerUp, sharedDirectories } from "../link/container.ts";
import { type CommonFlags, keysOption, withOutput } from "./common.ts";
import { leavable } from "./interrupt.ts";
import { printJson, say } from "./terminal.ts";

interface DockerFlags extends CommonFlags {
  readonly tcp?: true;
  readonly keys?: string;
}

export function dockerCommand(): Command {
  return withOutput(new Command("docker"))
    .addArgument(new Argument("<action>", "what to do").choices(["up", "down"]))
    .option("--tcp", "listen on 127.0.0.1 with keys instead of a socket in a shared directory")
    .addOption(keysOption())
    .addHelpText(
      "after",
      `
Builds the image on SPARKABLATE_BASE_IMAGE (default: NVIDIA's PyTorch image), and uses the GPU if there is one. The
container sees SPARKABLATE_MODELS (models and baked checkpoints), SPARKABLATE_HOME and HF_HOME, and no other files.
SPARKABLATE_COMPOSE names further compose files, separated by colons. docs/dgx-spark.md has a step-by-step guide.

Example:
  sparkablate docker up
  sparkablate run -c configs/smoke_test.yaml --worker docker`,
    )
    .action(async (action: "up" | "down", { tcp, keys, json, quiet }: DockerFlags) => {
      const tell = quiet ? () => undefined : say;
      if (action === "down") return await leavable((signal) => containerDown({ say: tell, signal }));
      const address = await leavable((signal) =>
        containerUp({ transport: tcp ? "tcp" : undefined, keys, say: tell, signal }),
      );
      if (json) printJson({ address, shared: sharedDirectories() });
      tell(`the worker listens on ${address}; use it with --worker ${tcp ? address : "docker"}`);
      tell(`it can see ${sharedDirectories().join(", ")}`);
    });
}
