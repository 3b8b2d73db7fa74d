/** Finds a Python to make the environment from. */
import { z } from "zod";
import { SparkablateError } from "../errors.ts";

/** The versions that the pinned torch has wheels for. */
const OLDEST_MINOR = 10;
const NEWEST_MINOR = 14;

const PROBE = `
import json, sys, sysconfig
def has(module):
    try:
        __import__(module)
        return True
    except ImportError:
        return False
print(json.dumps({
    "executable": sys.executable,
    "version": list(sys.version_info[:3]),
    "can_make_venv": has("venv") and has("ensurepip"),
    "site_packages": sysconfig.get_paths()["purelib"],
}))
`;

const probeResult = z.object({
  executable: z.string(),
  version: z.tuple([z.number(), z.number(), z.number()]),
  can_make_venv: z.boolean(),
  site_packages: z.string(),
});

export interface Python {
  readonly executable: string;
  /** e.g. "3.11.7". */
  readonly version: string;
  readonly sitePackages: string;
}

/**
 * The interpreter that was asked for, else the first of python3, python3.14 … python3.10 on the PATH that will do.
 * Throws `environment_missing`, naming what to install.
 */
export async function findPython(asked: string | undefined): Promise<Python> {
  const names =
    asked !== undefined ? [asked] : ["python3", ...minorsNewestFirst().map((m) => `python3.${m}`)];
  const refused: string[] = [];
  let install = "python3 python3-venv";
  for (const name of names) {
    const found = await probe(name);
    if (found === undefined) continue;
    const version = found.version.join(".");
    const [major, minor] = found.version;
    if (major !== 3 || minor < OLDEST_MINOR || minor > NEWEST_MINOR) {
      refused.push(`${found.executable} is Python ${version}`);
    } else if (!found.can_make_venv) {
      refused.push(
        `${found.executable} (Python ${version}) lacks the module ensurepip, which 'python -m venv' needs`,
      );
      install = `python3.${minor}-venv`;
    } else {
      return { executable: found.executable, version, sitePackages: found.site_packages };
    }
  }
  const wanted = `Python 3.${OLDEST_MINOR} to 3.${NEWEST_MINOR} with venv`;
  const found = refused.length > 0 ? refused.join("; ") : `${asked ?? "python3"} does not run`;
  throw new SparkablateError("environment_missing", `${wanted} is needed: ${found}`, {
    help: `On Debian and Ubuntu: apt install ${install}. Elsewhere, name a suitable Python with --python.`,
  });
}

function minorsNewestFirst(): number[] {
  return Array.from({ length: NEWEST_MINOR - OLDEST_MINOR + 1 }, (_, i) => NEWEST_MINOR - i);
}

async function probe(name: string): Promise<z.infer<typeof probeResult> | undefined> {
  const { execa } = await import("execa");
  const result = await execa(name, ["-c", PROBE], { reject: false, stdin: "ignore", timeout: 30_000 });
  if (result.failed) return undefined;
  return probeResult.parse(JSON.parse(result.stdout));
}
