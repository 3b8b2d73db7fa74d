/** `sparkablate setup`. */
import { Command, Option } from "commander";
import { setUp } from "../environment/setup.ts";
import { TORCH_CHOICES, type TorchChoice } from "../environment/torch.ts";
import { type CommonFlags, withOutput } from "./common.ts";
import { leavable } from "./interrupt.ts";
import { printJson, say } from "./terminal.ts";

interface SetupFlags extends CommonFlags {
  readonly python?: string;
  readonly torch?: TorchChoice;
  readonly indexUrl?: string;
  readonly systemSitePackages?: true;
  readonly engine?: "local" | "ray";
  readonly dev?: true;
}

export function setupCommand(): Command {
  return withOutput(new Command("setup"))
    .option(
      "--python <program>",
      "the Python to use, 3.10 to 3.14 (default: the first suitable one on the PATH)",
    )
    .addOption(
      new Option(
        "--torch <build>",
        "which build of torch (default: cuda if there is an NVIDIA device, else cpu)",
      ).choices(TORCH_CHOICES),
    )
    .option(
      "--index-url <url>",
      "take torch from this index, in addition to those that pip is configured with",
    )
    .option(
      "--system-site-packages",
      "let the environment use the packages of the Python that it is made from",
    )
    .addOption(
      new Option("--engine <engine>", "also install what this worker engine needs").choices(["local", "ray"]),
    )
    .option("--dev", "also install what the tests and checks of a checkout need")
    .addHelpText(
      "after",
      `
Everything goes to $SPARKABLATE_HOME (default ~/.cache/sparkablate). Run it as often as you like: it keeps what
is there, and continues where it was interrupted.

Examples:
  sparkablate setup
  sparkablate setup --torch existing --python /usr/bin/python3    # keep a container's own torch`,
    )
    .action(async (flags: SetupFlags) => {
      const result = await leavable(() =>
        setUp(flags, (line) => {
          if (!flags.quiet) say(line);
        }),
      );
      if (flags.json) printJson(result);
    });
}
