/** `sparkablate setup`. */
import { Command, Option } from "commander";
import { setUp } from "../environment/setup.ts";
import { TORCH_CHOICES, type TorchChoice } from "../environment/torch.ts";

interface SetupFlags {
  readonly python?: string;
  readonly torch?: TorchChoice;
  readonly indexUrl?: string;
  readonly systemSitePackages?: true;
  readonly dev?: true;
  readonly json?: true;
  readonly quiet?: true;
}

export function setupCommand(): Command {
  return new Command("setup")
    .description("prepare the Python side: environment, pinned packages, the built-in model")
    .option(
      "--python <program>",
      "the Python to use, 3.10 to 3.14 (default: the first on the PATH that will do)",
    )
    .addOption(
      new Option(
        "--torch <build>",
        "which torch (default: cuda where there is an NVIDIA device, else cpu)",
      ).choices(TORCH_CHOICES),
    )
    .option("--index-url <url>", "take torch from this index, besides those that pip is configured with")
    .option("--system-site-packages", "let the environment see the packages of the Python it is made from")
    .option("--dev", "also install what the tests and checks of a checkout need")
    .option("--json", "print the result as JSON on stdout")
    .option("-q, --quiet", "say nothing that is not an error")
    .addHelpText(
      "after",
      `
Everything goes to $SPARKABLATE_HOME (default ~/.cache/sparkablate). Run it as often as you like: what is there
stays, and it goes on where it was interrupted.

Examples:
  sparkablate setup
  sparkablate setup --torch existing --python /usr/bin/python3    # keep a container's own torch`,
    )
    .action(async (flags: SetupFlags, command: Command) => {
      const { json, quiet } = command.optsWithGlobals<SetupFlags>();
      const result = await setUp(flags, (line) => {
        if (!quiet) console.error(line);
      });
      if (json) console.log(JSON.stringify(result, null, 1));
    });
}
