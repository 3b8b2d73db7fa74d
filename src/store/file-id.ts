import { statSync } from "node:fs";

/** Tells a file from one that takes its name later; undefined where there is none. */
export function fileId(path: string): string | undefined {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  // A number may be given again; a file's birth is not.
  return stats && `${stats.dev} ${stats.ino} ${stats.birthtimeNs}`;
}
