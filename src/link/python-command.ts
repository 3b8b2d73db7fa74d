/** How our Python code is started. */
import { delimiter, join } from "node:path";
import { type Environment, packageRoot } from "../environment/environment.ts";

/** The environment and the arguments with which our Python code runs; also used by `sparkablate worker`. */
export function pythonCommand({ python, home }: Environment): {
  python: string;
  env: Record<string, string>;
} {
  const inherited = process.env.PYTHONPATH;
  const worker = join(packageRoot(), "worker");
  return {
    python,
    env: {
      SPARKABLATE_HOME: home,
      PYTHONPATH: inherited ? `${worker}${delimiter}${inherited}` : worker,
      // A file named torch.py where the user stands must not be imported.
      PYTHONSAFEPATH: "1",
      PYTHONUNBUFFERED: "1",
      TOKENIZERS_PARALLELISM: "false",
    },
  };
}
