/** Nothing that others wrote steers a terminal: the one way to it, and that there is no other. */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { lines, paint, quoted, Words, words } from "../../../src/cli/terminal.ts";
import { packageRoot } from "../../../src/environment/environment.ts";
import { printable, printableJson, printableLines } from "../../../src/printable.ts";

const STEERING = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;
/** What styleText makes. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: what is looked for
const STYLE = /\u001b\[\d+m/g;
/** One of every kind that Unicode has: C0, DEL, C1, soft hyphen, zero width, bidi, separators, tags, a half character. */
const HOSTILE =
  "\0\x07\b\t\n\v\f\r\x1b[31m\x1b]0;t\x07\x7f\x9b2J\u00ad\u061c\u200b\u200d\u200e\u202a\u202e\u2028\u2029\u2066\u2069\ufeff\u{e0041}\ud800x";

describe("text of others", () => {
  test("is on one line, and no character of it steers, whichever it is", () => {
    const every = Array.from({ length: 0x1100 }, (_, page) =>
      String.fromCodePoint(...Array.from({ length: 0x100 }, (_, at) => page * 0x100 + at)),
    );
    for (const text of [HOSTILE, ...every]) {
      expect(printable(text)).not.toMatch(STEERING);
      expect(printableLines(text).replaceAll("\n", "")).not.toMatch(STEERING);
      const json = printableJson({ [text]: [text] }, 1);
      expect(json.replaceAll("\n", "")).not.toMatch(STEERING);
      expect(json.includes("\\n") || !text.includes("\n")).toBe(true);
      expect(JSON.parse(json)).toEqual(JSON.parse(JSON.stringify({ [text]: [text] })));
    }
    expect(printable("a\nb\x1b[0m\u202e\ud800")).toBe("a\\nb\\x1b[0m\\u{202e}\\u{d800}");
  });

  test("is left alone where nothing in it steers", () => {
    const text = "Δ NLL +6.797 · ▁▂▃ 漢字 é C:\\tmp 👍🏽 नमस्ते";
    expect(printable(text)).toBe(text);
    expect(printableLines(`${text}\n${text}`)).toBe(`${text}\n${text}`);
  });
});

describe("words", () => {
  test("keep what is ours, and write out what is put into them", () => {
    expect(words`one\n${HOSTILE}\ttwo`.text.replace("one\n", "").replace("\ttwo", "")).not.toMatch(STEERING);
    expect(words`${words`a\n`}${"b\n"}${3}`.text).toBe("a\nb\\n3");
    expect(lines(["a\nb", words`c\nd`]).text).toBe("a\\nb\nc\nd");
    expect(quoted("a\tb\nc\x1b\n\n", "> ").text).toBe("> a    b\n> c\\x1b");
    expect(paint("red", HOSTILE).text.replaceAll(STYLE, "")).not.toMatch(STEERING);
    expect(Words.made("\n").text).toBe("\n");
  });

  test("are the only way to stdout and stderr", () => {
    const ways = /\bconsole\.|process\.std(out|err)\.write|\bwriteSync\(\s*[12]\b/;
    const others = globSync("src/**/*.ts", { cwd: packageRoot() })
      .filter((file) =>
        ways.test(readFileSync(join(packageRoot(), file), "utf8").replaceAll(/^ \*.*$|^\s+\* .*$/gm, "")),
      )
      .sort();
    expect(others).toEqual(["src/cli/terminal.ts"]);
  });
});
