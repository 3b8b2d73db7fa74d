/**
 * What gets published, into release/ (or --out DIR): the Python package's sdist and wheel, and the npm tarball,
 * which carries that very wheel, the documentation, and the references of both APIs, made here.
 *
 *   npm run package [-- --out DIR]
 *
 * Needs dist/ and, as the first argument of --python, an interpreter with `build` and `hatchling`.
 */
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { execa } from "execa";
import { packageRoot } from "../src/environment/environment.ts";
import { writeReferences } from "./references.ts";

const ROOT = packageRoot();

export interface Packages {
  readonly tarball: string;
  readonly wheel: string;
  readonly sdist: string;
}

/** Absolute paths of the three files in `out`; throws with the output of the tool that failed. */
export async function makePackages(out: string, python: string): Promise<Packages> {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  mkdirSync(out, { recursive: true });
  // The wheel is made from the sdist, so that a file which the sdist lacks is missed here. No isolation: the
  // backend is the one that constraints.txt pins.
  await execa(python, ["-m", "build", "--no-isolation", "--outdir", out, join(ROOT, "worker")]);
  const wheel = join(out, `sparkablate-${version}-py3-none-any.whl`);
  const carried = join(ROOT, "dist", "python");
  rmSync(carried, { recursive: true, force: true });
  mkdirSync(carried);
  copyFileSync(wheel, join(carried, `sparkablate-${version}-py3-none-any.whl`));
  await writeReferences(join(ROOT, "docs"), python);
  await execa("npm", ["pack", "--silent", "--pack-destination", out], { cwd: ROOT });
  return {
    wheel,
    sdist: join(out, `sparkablate-${version}.tar.gz`),
    tarball: join(out, `sparkablate-${version}.tgz`),
  };
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: { out: { type: "string", default: join(ROOT, "release") }, python: { type: "string" } },
  });
  if (values.python === undefined) throw new Error("--python is missing: 'npm run package' fills it in");
  for (const file of Object.values(await makePackages(resolve(values.out), values.python))) {
    const sha256 = createHash("sha256").update(readFileSync(file)).digest("hex");
    console.log(`${(statSync(file).size / 1e6).toFixed(2)} MB  ${sha256}  ${file}`);
  }
}
