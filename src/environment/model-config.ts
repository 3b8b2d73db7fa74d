/** What a model's files say of it without being loaded: its configuration, and how many parameters its weights are. */
import { closeSync, existsSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { SparkablateError } from "../errors.ts";
import { sparkablateHome } from "./environment.ts";

/** As `BUILTIN_MODELS` in worker/sparkablate/loading/configuration.py. */
const BUILTIN_DIRECTORIES: Readonly<Record<string, string>> = { "smollm2-135m": "smollm2-135m-instruct" };
const LENGTH_BYTES = 8;
/** Far more than the header of any checkpoint's file. */
const MAX_HEADER_BYTES = 256 << 20;

export interface ModelName {
  readonly name: string;
  readonly revision: string | null;
}

/** The directory that a model of this name is read from on this machine; null: it was not fetched yet. */
export function findModel({ name, revision }: ModelName): string | null {
  const directory = placeOf(name, revision);
  return existsSync(join(directory, "config.json")) ? directory : null;
}

/** @throws SparkablateError model_not_found where it was not fetched yet. */
export function modelDirectory(model: ModelName): string {
  const { name, revision } = model;
  const found = findModel(model);
  if (found !== null) return found;
  if (name.startsWith("/"))
    throw notHere(`${name} has no config.json`, "Without one, only the loaded model tells what it has.");
  if (name.startsWith("builtin:"))
    throw notHere(`${name} is not on this machine yet`, "Run 'sparkablate setup', which makes it.");
  throw notHere(
    `${name}${revision === null ? "" : ` at ${revision}`} is not in Hugging Face's cache on this machine`,
    `Fetch its configuration with 'sparkablate inspect -m ${name} --meta', or run it.`,
  );
}

function placeOf(name: string, revision: string | null): string {
  if (name.startsWith("/")) return name;
  if (name.startsWith("builtin:"))
    return join(sparkablateHome(), "models", BUILTIN_DIRECTORIES[name.slice("builtin:".length)] ?? "");
  const repository = join(hubCache(), `models--${name.replaceAll("/", "--")}`);
  const reference = join(repository, "refs", revision ?? "main");
  const commit = existsSync(reference) ? readFileSync(reference, "utf8").trim() : (revision ?? "main");
  return join(repository, "snapshots", commit);
}

const notHere = (message: string, help: string): SparkablateError =>
  new SparkablateError("model_not_found", message, { help });

/** As huggingface_hub finds it. */
function hubCache(): string {
  const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
  if (HF_HUB_CACHE) return HF_HUB_CACHE;
  return join(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface"), "hub");
}

export type Configuration = Readonly<Record<string, unknown>>;

/** The text of config.json, and the part of it that is the language model's. @throws SparkablateError load_failed. */
export function readConfiguration(directory: string): {
  text: string;
  type: string;
  language: Configuration;
} {
  const path = join(directory, "config.json");
  let text: string;
  let whole: unknown;
  try {
    text = readFileSync(path, "utf8");
    whole = JSON.parse(text);
  } catch (cause) {
    throw new SparkablateError("load_failed", `${path} cannot be read as JSON`, { cause });
  }
  if (typeof whole !== "object" || whole === null || Array.isArray(whole))
    throw new SparkablateError("load_failed", `${path} holds no object`);
  const configuration = whole as Record<string, unknown>;
  const inner = configuration.text_config ?? configuration.llm_config ?? configuration.language_config;
  const language = typeof inner === "object" && inner !== null ? (inner as Configuration) : configuration;
  const type = String(language.model_type ?? configuration.model_type ?? "unknown");
  return { text, type, language };
}

/** The first of the keys that is a count. */
export const countIn = (language: Configuration, ...keys: string[]): number | undefined =>
  keys
    .map((key) => language[key])
    .find((value): value is number => Number.isSafeInteger(value) && (value as number) > 0);

/** How many positions the model has; null: no limit. */
export const positionsIn = (language: Configuration): number | null =>
  countIn(language, "max_position_embeddings", "n_positions", "n_ctx") ?? null;

/** Elements of all tensors in the directory's safetensors files, by their headers; null: it has none. */
export function storedParameters(directory: string): number | null {
  const names = readdirSync(directory).filter((name) => name.endsWith(".safetensors"));
  if (names.length === 0) return null;
  return names.reduce((sum, name) => sum + elementsIn(join(directory, name)), 0);
}

function elementsIn(path: string): number {
  const file = openSync(path, "r");
  try {
    const length = Buffer.alloc(LENGTH_BYTES);
    readSync(file, length, 0, LENGTH_BYTES, 0);
    const bytes = Number(length.readBigUInt64LE());
    if (bytes > MAX_HEADER_BYTES) throw new Error("the header is too long");
    const header = Buffer.alloc(bytes);
    if (readSync(file, header, 0, bytes, LENGTH_BYTES) < bytes) throw new Error("the header is cut off");
    const tensors = JSON.parse(header.toString("utf8")) as Record<string, { shape?: number[] }>;
    return Object.values(tensors).reduce(
      (sum, { shape }) =>
        sum + (shape === undefined ? 0 : shape.reduce((product, size) => product * size, 1)),
      0,
    );
  } catch (cause) {
    throw new SparkablateError("load_failed", `${path} is no safetensors file that can be read`, { cause });
  } finally {
    closeSync(file);
  }
}
