/** Where the text comes from: a text file, which the controller reads, or rows that the worker loads. */
import { z } from "zod";
import type { Request } from "../protocol/messages.ts";
import { didYouMean } from "../suggest.ts";
import { leaf, section } from "./leaves.ts";
import { absolute, type Complain, existingFile, localDirectory, resolved } from "./paths.ts";

/** The wire's words for a dataset that the worker loads. */
export type HubDataset = NonNullable<Request<"tokenize">["dataset"]>;

export const WIKITEXT: HubDataset = {
  path: "Salesforce/wikitext",
  config: "wikitext-2-raw-v1",
  split: "test",
  column: "text",
};
/** What calibrates a run on `wikitext` that does not say otherwise. */
export const TRAINING_WIKITEXT: HubDataset = { ...WIKITEXT, split: "train" };

const NAMES = ["wikitext"] as const;
const ALLOWED = "wikitext, a .txt path, or {path or name, config, split, column}";

/** Comes out as an absolute path of a text file, or as a dataset for the worker. */
export function dataset(cwd: string, texts: boolean) {
  const written = resolved<string | HubDataset>(ALLOWED, (name, complain) => {
    if (name === "wikitext") return WIKITEXT;
    if (name.endsWith(".txt")) return textFile(name, cwd, texts, complain);
    complain("config_invalid", `"${name}" is not a dataset${didYouMean(name, NAMES)}`);
    return undefined;
  });
  const text = (allowed: string) => z.string(leaf(allowed)).min(1, leaf(allowed)).max(4096, leaf(allowed));
  const rows = section({
    /** A local directory, or a Hugging Face id. */
    path: text("a local directory, or a Hugging Face id").optional(),
    /** A Hugging Face id; instead of path. */
    name: text("a Hugging Face id").optional(),
    /** Of those that the data set has; null: its only one. */
    config: text("a configuration of the dataset, or null").nullable().default(null),
    /** E.g. test. */
    split: text("a split of the dataset, like test").default("test"),
    /** That holds the text. */
    column: text("the column that holds the text").default("text"),
  }).transform(({ path, name, ...rest }, context): HubDataset => {
    const source = path === undefined ? name : (localDirectory(path, cwd) ?? path);
    if (source !== undefined && (path === undefined || name === undefined)) return { path: source, ...rest };
    context.addIssue({ code: "custom", message: `needs one of path and name; allowed: ${ALLOWED}` });
    return z.NEVER;
  });
  return z.union([written, rows], leaf(ALLOWED));
}

/** The absolute path of a file of JSON lines. */
const jsonLines = (what: string) => (cwd: string, texts: boolean) =>
  resolved("a .jsonl path", (written, complain) => {
    if (written.endsWith(".jsonl")) return textFile(written, cwd, texts, complain);
    complain("config_invalid", `"${written}" is not ${what}`);
    return undefined;
  });

/** Items. */
export const taskFile = jsonLines("a task file");
/** The donors of a task's items. */
export const donorFile = jsonLines("a file of donors");

/** @param texts whether the file has to be there: a command that reads no text asks for none. */
function textFile(written: string, cwd: string, texts: boolean, complain: Complain): string | undefined {
  const missing: Complain = (code, message) => {
    if (texts || code !== "input_missing") complain(code, message);
  };
  return existingFile(written, cwd, missing) ?? (texts ? undefined : absolute(written, cwd));
}

export function usesWikitext(source: string | HubDataset): boolean {
  return typeof source !== "string" && JSON.stringify(source) === JSON.stringify(WIKITEXT);
}
