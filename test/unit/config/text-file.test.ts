import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readBeginning, readTextFile } from "../../../src/config/text-file.ts";
import { SparkablateError } from "../../../src/errors.ts";
import { scratch } from "../../fixtures/harness.ts";

function written(content: Uint8Array | string): string {
  const path = join(scratch(), "a.txt");
  writeFileSync(path, content);
  return path;
}

function refusal(read: () => unknown): { code: string; message: string; help: string } {
  try {
    read();
  } catch (error) {
    if (error instanceof SparkablateError)
      return { code: error.code, message: error.message, help: error.help };
    throw error;
  }
  throw new Error("it was read");
}

const read = (path: string, most = 100) => readTextFile(path, "the text", most);
const beginning = (content: Uint8Array | string, most: number) => {
  const { bytes, more } = readBeginning(written(content), "the text", most);
  return [bytes.toString("utf8"), more];
};

describe("text", () => {
  it.each(["", "a", "naïve 🙂\r\n", "\u0001\u007f\u0085"])("is what was written: %j", (text) => {
    expect(read(written(text))).toEqual({ bytes: Buffer.from(text), text });
    expect(read(written(`\ufeff${text}`))).toEqual({ bytes: Buffer.from(`\ufeff${text}`), text });
    expect(beginning(`\ufeff${text}`, 100)).toEqual([text, false]);
  });

  it("has one mark at most", () => {
    expect(read(written("\ufeff\ufeffa")).text).toBe("\ufeffa");
    expect(beginning("\ufeff\ufeffa", 100)).toEqual(["\ufeffa", false]);
  });

  it.each([
    ["UTF-16", Buffer.from("\ufeffwords", "utf16le")],
    ["UTF-16", Buffer.from("\ufeffwords", "utf16le").swap16()],
    ["UTF-32", Buffer.from([0xff, 0xfe, 0, 0, 0x61, 0, 0, 0])],
    ["UTF-32", Buffer.from([0, 0, 0xfe, 0xff, 0, 0, 0, 0x61])],
  ])("that is %s says so, and how it is converted", (encoding, bytes) => {
    const path = written(bytes);
    for (const refused of [refusal(() => read(path)), refusal(() => readBeginning(path, "the text", 4))]) {
      expect(refused.code).toBe("config_invalid");
      expect(refused.message).toBe(`${path}: is not UTF-8 text, but ${encoding}, by its first bytes`);
      expect(refused.help).toBe(`Convert it: iconv -f ${encoding} -t UTF-8 OLD > NEW`);
    }
  });

  it("without a mark is known by its NULs", () => {
    const { message, help } = refusal(() => read(written(Buffer.from("a\nwords", "utf16le"))));
    expect(message).toMatch(/a\.txt: is not text: there is a NUL at byte offset 1 \(line 1\)$/);
    expect(help).toMatch(/iconv -f UTF-16/);
  });

  it("ends where the first byte is that belongs to no character", () => {
    const bad = [[0x80], [0xc3, 0x28], [0xe2, 0x82], [0xf0, 0x9f, 0x99], [0xed, 0xa0, 0x80], [0xff]];
    for (const good of ["", "a", "é", "日\n", "🙂\n\nx", "aé日🙂".repeat(9)]) {
      for (const bytes of bad) {
        const length = Buffer.byteLength(good);
        const line = good.split("\n").length;
        for (const rest of ["", "more é"]) {
          const content = Buffer.concat([Buffer.from(good), Buffer.from(bytes), Buffer.from(rest)]);
          const { message, help } = refusal(() => read(written(content)));
          const value = `0x${(bytes[0] as number).toString(16)}`;
          expect(message).toMatch(
            new RegExp(`not UTF-8 text: ${value} at byte offset ${length} \\(line ${line}\\)`),
          );
          expect(help).toMatch(/iconv -f WINDOWS-1252 -t UTF-8/);
        }
      }
    }
  });
});

describe("the beginning of a long text", () => {
  it("ends with a line, as long as there is one", () => {
    expect(beginning("one\ntwo\nthree", 9)).toEqual(["one\ntwo\n", true]);
    expect(beginning("one\ntwo\n", 8)).toEqual(["one\ntwo\n", false]);
    expect(beginning("\ufeffone\ntwo\n", 8)).toEqual(["one\ntwo\n", false]);
    expect(beginning("\ufeffone\ntwo\n!", 8)).toEqual(["one\ntwo\n", true]);
  });

  it("of one endless line ends with a character", () => {
    expect(beginning("aééé", 6)).toEqual(["aéé", true]);
    expect(beginning("🙂🙂", 7)).toEqual(["🙂", true]);
    expect(beginning("🙂🙂", 8)).toEqual(["🙂🙂", false]);
    expect(refusal(() => beginning(Buffer.alloc(20, 0x80), 6)).message).toMatch(/0x80 at byte offset 0/);
  });

  it("does not look at what follows", () => {
    expect(beginning(Buffer.concat([Buffer.from("ab\ncd\n"), Buffer.alloc(9, 0xff)]), 6)).toEqual([
      "ab\ncd\n",
      true,
    ]);
  });
});

describe("a file", () => {
  it("that is too long for what is read whole is refused", () => {
    expect(refusal(() => read(written("x".repeat(101))))).toMatchObject({
      code: "config_invalid",
      message: expect.stringMatching(/the text has more than 100 bytes; allowed: up to 100/),
    });
  });

  it("that is none is refused by what it is, and nothing is waited for", async () => {
    const directory = scratch();
    const at = (name: string) => join(directory, name);
    mkdirSync(at("folder"));
    execFileSync("sh", ["-c", 'mkfifo "$0"', at("pipe")]);
    symlinkSync("loop", at("loop"));
    symlinkSync("pipe", at("link"));
    const server = createServer().listen(at("socket"));
    await new Promise((resolve) => server.once("listening", resolve));
    for (const [path, why] of [
      [at("folder"), "it is a directory"],
      [at("pipe"), "it is a named pipe"],
      [at("link"), "it is a named pipe"],
      [at("socket"), "it is a socket"],
      ["/dev/null", "it is a device"],
    ] as const) {
      const { code, message } = refusal(() => read(path));
      expect([code, message]).toEqual(["input_missing", `${path}: the text cannot be read: ${why}`]);
    }
    server.close();
    expect(refusal(() => read(at("loop"))).message).toBe(`${at("loop")}: the text cannot be read (ELOOP)`);
    expect(refusal(() => read(at("none"))).message).toBe(
      `${at("none")}: the text cannot be read: there is no such file`,
    );
  });

  it("may be what a shell hands over", () => {
    const file = openSync(written("handed over"), "r");
    expect(read(`/dev/fd/${file}`).text).toBe("handed over");
    closeSync(file);
    const script = `import("${new URL("../../../src/config/text-file.ts", import.meta.url)}").then(({ readTextFile }) => {
      process.stdout.write(readTextFile("/dev/stdin", "the text", 99).text);
    });`;
    // Node's own `input` is a socket; a shell's pipe is one.
    const line = 'printf "through a pipe" | "$0" --input-type=module -e "$1"';
    const piped = execFileSync("sh", ["-c", line, process.execPath, script]);
    expect(String(piped)).toBe("through a pipe");
  });
});
