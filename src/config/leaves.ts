/** The kinds of value a config key can have, each with one text of what is allowed. */
import { z } from "zod";
import { parseLayers } from "../conditions/parse.ts";
import { SparkablateError } from "../errors.ts";
import { LIMITS } from "../protocol/catalog.ts";
import { didYouMean } from "../suggest.ts";

type RawIssue = z.core.$ZodRawIssue;

/** A value as a message quotes it. */
function quoted(value: unknown): string {
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : "a list";
  if (typeof value === "object" && value !== null) return "a section with keys of its own";
  const text = typeof value === "string" ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

function complaint(value: unknown, allowed: string, hint = ""): string {
  const what =
    value === undefined ? "is missing" : value === null ? "is empty" : `${quoted(value)} does not fit`;
  return `${what}${hint}; allowed: ${allowed}`;
}

/** zod parameters under which every complaint about the value says what is allowed. */
export function leaf(allowed: string) {
  return { error: (issue: RawIssue) => complaint(issue.input, allowed) };
}

export function whole(min: number, max: number) {
  const params = leaf(`a whole number from ${min} to ${max}`);
  return z.int(params).min(min, params).max(max, params);
}

export function decimal(min: number, max: number) {
  const params = leaf(`a number from ${min} to ${max}`);
  return z.number(params).min(min, params).max(max, params);
}

export function choice<const T extends readonly [string, ...string[]]>(names: T) {
  return z.enum(names, { error: (issue) => misnamed(issue.input, names) });
}

/** One of the names, or a list of different ones: read in the order of `names`, a list of one as that one. */
export function oneOrMore<const T extends readonly [string, ...string[]]>(names: T) {
  const one = choice(names);
  const params = { error: ({ input }: RawIssue) => `${misnamed(input, names)}, or a list of them` };
  return z
    .union([one, z.array(one, params).min(1, params)], params)
    .superRefine((value, context) => {
      if (typeof value === "string") return;
      for (const [index, name] of value.entries()) {
        if (value.indexOf(name) === index) continue;
        const message = `${name} is listed twice: keep one`;
        context.addIssue({ code: "custom", path: [index], message });
      }
    })
    .transform((value): T[number] | T[number][] => {
      if (!Array.isArray(value)) return value;
      const [first, ...others] = names.filter((name) => value.includes(name));
      return first !== undefined && others.length === 0
        ? first
        : names.filter((name) => value.includes(name));
    });
}

function misnamed(value: unknown, names: readonly string[]): string {
  return complaint(value, names.join(", "), typeof value === "string" ? didYouMean(value, names) : "");
}

/** zod parameters of a union over `kind`. */
export function kinds(names: readonly string[]) {
  return {
    error: (issue: RawIssue) => {
      const { input } = issue;
      const isSection = typeof input === "object" && input !== null && !Array.isArray(input);
      return isSection
        ? misnamed((input as { kind?: unknown }).kind, names)
        : complaint(input, `a section with kind: ${names.join(", ")}`);
    },
  };
}

/** A section: unknown keys are refused, one line each (in the order of the issue's keys). */
export function section<T extends z.core.$ZodLooseShape>(shape: T) {
  const names = Object.keys(shape);
  return z.strictObject(shape, {
    error: (issue) =>
      issue.code === "unrecognized_keys"
        ? issue.keys
            .map((key: string) => `is not a key${didYouMean(key, names)}; allowed: ${names.join(", ")}`)
            .join("\n")
        : complaint(issue.input, `a section with the keys ${names.join(", ")}`),
  });
}

/** A section that may be left out, or left empty. */
export function optionalSection<T extends z.ZodType>(inner: T) {
  return z.preprocess((value) => value ?? {}, inner);
}

/** A list of different numbers from 0 up, in rising order once read. */
export const indices = (allowed: string) => different(allowed, 0);

/** Layers as a list or as text; negative ones are counted from the last. */
export function layerIndices(allowed: string) {
  return z.preprocess(
    (value, context) => {
      if (typeof value === "number") return [value];
      if (typeof value !== "string" || !/^-?\d/.test(value)) return value;
      try {
        return parseLayers(value, "later");
      } catch (error) {
        if (!(error instanceof SparkablateError)) throw error;
        context.addIssue({ code: "custom", message: error.message });
        return z.NEVER;
      }
    },
    different(allowed, -LIMITS.index),
  );
}

function different(allowed: string, least: number) {
  const params = leaf(allowed);
  return z
    .array(z.int(params).min(least, params).max(LIMITS.index, params), params)
    .min(1, params)
    .max(LIMITS.listed, params)
    .superRefine((list, context) => {
      for (const [index, value] of list.entries()) {
        if (list.indexOf(value) < index) {
          context.addIssue({
            code: "custom",
            path: [index],
            message: `${value} is listed twice: keep one`,
          });
        }
      }
    })
    .transform((list) => list.toSorted((a, b) => a - b));
}
