import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { SparkablateError } from "../../../src/errors.ts";
import { MAX_PAYLOAD_BYTES } from "../../../src/protocol/messages.ts";
import { parseTask, readTask } from "../../../src/samples/task-file.ts";

const directory = mkdtempSync(join(tmpdir(), "sparkablate-tasks-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const GOOD = '{"prompt": "a", "answer": " b", "wrong": " c"}';
const lines = (...all: string[]): string => all.join("\n");

function refusal(content: string): string[] {
  try {
    parseTask(content, "t.jsonl");
  } catch (error) {
    expect(error).toBeInstanceOf(SparkablateError);
    expect((error as SparkablateError).code).toBe("config_invalid");
    return (error as SparkablateError).message.split("\n");
  }
  throw new Error("accepted");
}

const written = (name: string, content: string | Buffer): string => {
  const path = join(directory, name);
  writeFileSync(path, content);
  return path;
};

describe("a task file", () => {
  it("is one item a line, whatever ends the lines", () => {
    const items = [
      { prompt: "a", answer: " b", wrong: " c" },
      { prompt: "é\n", answer: " b", wrong: " c" },
    ];
    const text = items.map((item) => JSON.stringify(item));
    for (const content of [lines(...text), lines(...text, ""), text.join("\r\n"), `${text.join("\r\n")}\r\n`])
      expect(parseTask(content, "t.jsonl")).toEqual({ items, wrong: true });
    expect(parseTask('{"answer": "b", "prompt": "a"}', "t.jsonl")).toEqual({
      items: [{ prompt: "a", answer: "b" }],
      wrong: false,
    });
  });

  it("is read as UTF-8, with or without a byte order mark, and known by its bytes", () => {
    const plain = readTask(written("plain.jsonl", GOOD));
    const marked = readTask(written("marked.jsonl", `\ufeff${GOOD}`));
    expect(marked.items).toEqual(plain.items);
    expect(marked.sha256).not.toBe(plain.sha256);
    expect(plain.name).toBe("plain.jsonl");
    expect(() => readTask(written("latin.jsonl", Buffer.from('{"prompt": "\xe9"}', "latin1")))).toThrow(
      /latin\.jsonl: is not UTF-8 text/,
    );
    expect(() => readTask(join(directory, "none.jsonl"))).toThrow(
      /none\.jsonl: .*cannot be read: there is no such file/,
    );
  });

  it.each([
    ["nothing", "", /^t\.jsonl: is empty; allowed: \{"prompt"/],
    ["a line feed", "\n", /^t\.jsonl: is empty/],
    ["a line that is empty", lines(GOOD, "", GOOD), /^t\.jsonl:2: is empty; allowed: \{"prompt"/],
    ["a line that is no JSON", lines(GOOD, "prompt: a"), /^t\.jsonl:2: is not JSON; allowed: \{"prompt"/],
    [
      "a key twice",
      lines(GOOD, '{"prompt": "a", "prompt": "b", "answer": "c"}'),
      /^t\.jsonl:2: names a key twice/,
    ],
    [
      "a key twice, spelt otherwise",
      '{"answer": "c", "prompt": "a", "\\u0070rompt" : "b"}',
      /names a key twice/,
    ],
    ["half an object", '{"prompt": "a", "answer"', /^t\.jsonl:1: is not JSON/],
    ["a list", "[]", /^t\.jsonl:1: .*allowed: a section with the keys prompt, answer, wrong/],
    ["a number", "3", /^t\.jsonl:1: 3 does not fit/],
    ["no answer", '{"prompt": "a"}', /^t\.jsonl:1: answer: is missing; allowed: a text/],
    [
      "an empty prompt",
      '{"prompt": "", "answer": "b"}',
      /^t\.jsonl:1: prompt: .*allowed: a text that is not empty/,
    ],
    [
      "an answer that is a number",
      '{"prompt": "a", "answer": 4}',
      /^t\.jsonl:1: answer: 4 does not fit; allowed: a text/,
    ],
    [
      "a wrong answer that is null",
      '{"prompt": "a", "answer": "b", "wrong": null}',
      /^t\.jsonl:1: wrong: is empty/,
    ],
    [
      "an unknown key",
      '{"prompt": "a", "anwser": "b", "answer": "b"}',
      /^t\.jsonl:1: anwser: is not a key, did you mean "answer"\?/,
    ],
    [
      "half a character",
      '{"prompt": "\\ud83d", "answer": "b"}',
      /^t\.jsonl:1: prompt: holds half a surrogate pair/,
    ],
    [
      "a wrong answer that is the answer",
      '{"prompt": "a", "answer": "b", "wrong": "b"}',
      /^t\.jsonl:1: wrong: is the answer itself/,
    ],
    [
      "a line twice",
      lines(GOOD, '{"prompt": "x", "answer": "b", "wrong": "c"}', GOOD),
      /^t\.jsonl:3: repeats line 1: remove one of them/,
    ],
    [
      "a wrong answer on some lines",
      lines(GOOD, '{"prompt": "x", "answer": "b"}'),
      /^t\.jsonl:2: wrong: has no wrong answer, but line 1 has one/,
    ],
    [
      "no wrong answer on some lines",
      lines('{"prompt": "x", "answer": "b"}', GOOD),
      /^t\.jsonl:2: wrong: has a? ?wrong answer, but line 1 has none/,
    ],
  ])("is refused with %s", (_, content, words) => {
    expect(refusal(content)[0]).toMatch(words);
  });

  it("names every fault at once, up to five", () => {
    const bad = Array.from({ length: 9 }, (_, index) => `{"prompt": "${index}"}`);
    const messages = refusal(lines(GOOD, ...bad));
    expect(messages.slice(0, 5).map((line) => line.split(":")[1])).toEqual(["2", "3", "4", "5", "6"]);
    expect(messages[5]).toBe("… and 4 more");
    expect(messages).toHaveLength(6);
  });

  it("is refused before it is parsed where it is too long", () => {
    const path = written("long.jsonl", Buffer.alloc(MAX_PAYLOAD_BYTES / 2 + 1, " "));
    expect(() => readTask(path)).toThrow(
      /long\.jsonl: the task file has more than 8388608 bytes; allowed: up to 8388608/,
    );
    const many = Array.from({ length: 40_001 }, (_, index) => `{"prompt": "${index}", "answer": "b"}`);
    expect(refusal(lines(...many))[0]).toMatch(/has 40001 lines; allowed: up to 40000/);
  });
});
