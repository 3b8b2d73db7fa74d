/** The message files that both languages read (test/contract/README.md says how they are written). */
import { readdirSync, readFileSync } from "node:fs";

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
type Path = readonly (string | number)[];

interface Change {
  readonly why: string;
  readonly at: Path;
  readonly value?: Json;
  readonly repeat?: Json;
  readonly times?: number;
}

export interface Examples {
  readonly valid: readonly { readonly message: Json; readonly msgpack: string }[];
  /** Each is the first valid message, changed in one place. */
  readonly invalid: readonly { readonly why: string; readonly message: Json }[];
}

const MESSAGES = new URL("messages/", import.meta.url);

export const exampleNames = (kind: "requests" | "results" | "events"): string[] =>
  readdirSync(new URL(kind, MESSAGES)).map((file) => file.replace(/\.json$/, ""));

export function examples(name: string): Examples {
  const { valid, invalid } = JSON.parse(readFileSync(new URL(`${name}.json`, MESSAGES), "utf8"));
  return {
    valid,
    invalid: invalid.map((change: Change) => ({
      why: change.why,
      message: changed(valid[0].message, change),
    })),
  };
}

function changed(message: Json, { at, ...change }: Change): Json {
  const copy = structuredClone(message);
  // biome-ignore lint/suspicious/noExplicitAny: a path into JSON
  const parent: any = at.slice(0, -1).reduce((inside: any, key) => inside[key], copy);
  const last = at.at(-1) as string | number;
  if (change.value !== undefined) parent[last] = change.value;
  else if (typeof change.repeat === "string") parent[last] = change.repeat.repeat(change.times ?? 1);
  else if (change.repeat !== undefined) parent[last] = Array(change.times).fill(change.repeat);
  else delete parent[last];
  return copy;
}

export interface Abuse {
  readonly why: string;
  readonly frames: Buffer[];
}

/** Frames that are no message, whoever receives them. */
export function abuse(receiver: "worker" | "controller"): Abuse[] {
  const cases = JSON.parse(readFileSync(new URL("abuse.json", MESSAGES), "utf8")) as {
    why: string;
    to: string;
    frames: string[];
    times?: number;
    pad?: number[];
  }[];
  return cases
    .filter(({ to }) => to === receiver || to === "both")
    .map(({ why, frames, times = 1, pad = [] }) => ({
      why,
      frames: frames.map((hex, index) => {
        const bytes = Buffer.from(index === 0 ? hex.repeat(times) : hex, "hex");
        return Buffer.concat([bytes, Buffer.alloc(Math.max(0, (pad[index] ?? 0) - bytes.length), "a")]);
      }),
    }));
}
