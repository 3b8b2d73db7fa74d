import { createHash } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { directionBytes, readDirection } from "../../../src/directions/file.ts";
import { checkSides, readPrompts } from "../../../src/directions/find.ts";
import { unitVector } from "../../fixtures/directions.ts";
import { scratch } from "../../fixtures/harness.ts";

function file(content: string | Uint8Array, name = "a.txt"): string {
  const path = join(scratch(), name);
  writeFileSync(path, content);
  return path;
}

const lines = (count: number, word: string): string =>
  Array.from({ length: count }, (_, index) => `${word} ${index}`).join("\n");

it("reads prompts, one a line, and names the file by its bytes", () => {
  const text = "first \n\n second\r\n  \nthird";
  const { name, prompts, sha256 } = readPrompts(file(text));
  expect(name).toBe("a.txt");
  expect(prompts).toEqual(["first ", " second", "third"]);
  expect(sha256).toBe(createHash("sha256").update(text).digest("hex"));
});

it("refuses files that hold no prompts", () => {
  expect(() => readPrompts("/none.txt")).toThrow(
    "/none.txt: the prompts cannot be read: there is no such file",
  );
  expect(() => readPrompts(file(" \n\n"))).toThrow(/holds no prompt/);
  expect(() => readPrompts(file(Buffer.from([0xff, 0x41])))).toThrow(/not UTF-8/);
});

it("refuses sides that are too small or share a prompt", () => {
  const read = (text: string, name: string) => readPrompts(file(text, name));
  const good = read(lines(8, "good"), "good.txt");
  const check = (text: string) => () => checkSides(good, read(text, "bad.txt"));
  expect(check(lines(8, "bad"))).not.toThrow();
  expect(check(lines(7, "bad"))).toThrow("bad.txt holds 7 prompts; allowed: 8 or more");
  expect(check(`${lines(8, "bad")}\n good 3 `)).toThrow(
    'prompt 9 of bad.txt is the same as prompt 4 of good.txt: "good 3": remove one of them',
  );
  expect(check(`${lines(8, "bad")}\nbad 0`)).toThrow(
    "prompt 9 of bad.txt is the same as prompt 1 of bad.txt",
  );
});

it("writes what it reads back, whatever the metadata's length", () => {
  const vector = Float32Array.from(unitVector(24));
  for (const more of ["", "é", '日本語 "quoted"\n']) {
    const direction = { vector, sha256: "", layer: 3, norm: 0.1 + 0.2 };
    const bytes = directionBytes(direction, { layer: "3", norm: String(direction.norm), more });
    expect((bytes.length - vector.byteLength) % 8).toBe(0);
    const read = readDirection(file(bytes, "d.safetensors"));
    expect(read).toMatchObject({ vector, layer: 3, norm: direction.norm });
  }
});
