import { stripVTControlCharacters, styleText } from "node:util";
import { expect, it } from "vitest";
import { render } from "../../../src/cli/compare.ts";
import type { ComparedText, Comparison } from "../../../src/run/compare.ts";

const text = (condition: string, more: Partial<ComparedText>): ComparedText => ({
  condition,
  text: "",
  ids: [1, 2],
  stopped: false,
  seconds: 1,
  agreement: null,
  error: null,
  ...more,
});

const comparison = (...texts: ComparedText[]) =>
  ({ prompts: [{ prompt: "Once\nupon", prompt_tokens: 2, texts }] }) as unknown as Comparison;

const LONG = "the cat sat on the mat and looked at the moon, which was round ".repeat(3);

it("shows both texts side by side within the width, and marks where they part", () => {
  const shown = comparison(
    text("baseline", { text: `${LONG}here`, ids: [1, 2, 3] }),
    text("L0.layer.skip", {
      text: `${LONG}there`,
      stopped: true,
      agreement: { identical: false, tokens: 2, characters: LONG.length },
    }),
  );
  for (const width of [60, 100, 140]) {
    const coloured = render(shown, {
      width,
      paint: (style, part) => styleText(style, part, { validateStream: false }),
    });
    const lines = stripVTControlCharacters(coloured).trimEnd().split("\n");
    expect(lines[0]).toBe("» Once upon");
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(width);
    const [left, right] = [1, 2].map((column) =>
      lines
        .filter((line) => line.startsWith("│"))
        .map((line) => line.split("│")[column]?.trim())
        .join(" "),
    );
    expect(left).toContain("▸here");
    expect(right).toContain("▸there");
    expect(right).toMatch(/the same for 2 tokens; 2 tokens, ended by\s+the\s+model/);
  }
});

it("says when texts are identical, when one failed, and lets no control character through", () => {
  const agreement = { identical: true, tokens: 2, characters: 3 };
  const error = { code: "nonfinite_logits" as const, message: "NaN at position 3", detail: "" };
  const shown = render(
    comparison(
      text("baseline", { text: "a\u001b[31m\tb\u202e" }),
      text("L1.mlp.zero", { text: "a\u001b[31m\tb\u202e", agreement }),
      text("L2.mlp.zero", { error }),
    ),
    { width: 80, paint: (_, part) => part },
  );
  expect(shown).toContain("identical; 2 tokens");
  expect(shown).toContain("a\\x1b[31m    b\\u{202e}");
  expect(shown).toContain("failed (nonfinite_logits): NaN at");
  expect(shown).toContain("not compared");
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
  expect(shown).not.toMatch(/[\x00-\x09\x0b-\x1f\u202e]/);
});
