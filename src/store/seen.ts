/** What a run was made from, as it lay on disk. No type of SQLite's: users compile this. */
import type { ModelFiles } from "../protocol/messages.ts";

export interface Seen {
  readonly model: ModelFiles;
  /** Part → digest of what it names, or its name. */
  readonly inputs: Readonly<Record<string, string>>;
}
