/** docs/features.md: which features meet, from src/protocol/features.ts. */
import {
  FEATURE_NAMES,
  FEATURES,
  type Feature,
  meeting,
  REFUSALS,
  refusalOf,
} from "../src/protocol/features.ts";

const HEAD = `# Which features meet

This page is made from \`src/protocol/features.ts\`. What two features refuse is said before anything is loaded. Every two that
are not listed as refused work together: \`test/e2e/features.test.ts\` asks for all of them, with a tiny model, and for every refused
two it expects the sentence below. Two that nobody can ask for at once, such as two sweeps, are left out.
`;

const table = (head: readonly string[], lines: readonly (readonly string[])[]): string =>
  [head, head.map(() => ":--"), ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n");

const asked = (feature: Feature): string => FEATURES[feature].asked;

function line(feature: Feature): string[] {
  const others = FEATURE_NAMES.filter((other) => other !== feature);
  const working = others.filter((other) => meeting(feature, other) === "works").length;
  const refused = others.filter((other) => refusalOf(feature, other) !== null).map(asked);
  return [asked(feature), String(working), refused.join("; ") || "–"];
}

export const featuresPage = (): string => `${HEAD}
${table(["feature", "works with so many others", "refused with"], FEATURE_NAMES.map(line))}

## Why

${table(
  ["these two", "error", "sentence"],
  REFUSALS.map(({ features, code, sentence }) => [
    features.map(asked).join(" and "),
    `\`${code}\``,
    sentence,
  ]),
)}
`;
