/** Files that are written together: all or none, and never one beside another's. */
import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { requirePlaces, writeTogether } from "../../../src/store/together.ts";
import { scratch } from "../../fixtures/harness.ts";

const usage = (message: RegExp) =>
  expect.objectContaining({ code: "usage", message: expect.stringMatching(message) });

it("writes all, in directories that it makes, and leaves nothing else there", () => {
  const directory = join(scratch(), "new", "deep");
  const [table, product] = [join(directory, "d.json"), join(directory, "d.safetensors")];
  const parts = [
    { path: table, bytes: "{}" },
    { path: product, bytes: Buffer.from([1, 2]) },
  ];
  requirePlaces([table, product], false);
  writeTogether(parts, false);
  expect(readdirSync(directory).sort()).toEqual(["d.json", "d.safetensors"]);
  expect(readFileSync(product)).toEqual(Buffer.from([1, 2]));
  expect(() => writeTogether(parts, false)).toThrow(usage(/d\.json exists; pass --force/));
  // Nothing was found this time: what an earlier search left must not stand beside the new table.
  writeTogether(
    [
      { path: table, bytes: "none" },
      { path: product, bytes: null },
    ],
    true,
  );
  expect(readdirSync(directory)).toEqual(["d.json"]);
  expect(readFileSync(table, "utf8")).toBe("none");
});

it("writes none where one cannot be written", () => {
  const directory = scratch();
  const [table, product] = [join(directory, "d.json"), join(directory, "d.safetensors")];
  writeFileSync(table, "old");
  mkdirSync(product);
  const parts = [
    { path: table, bytes: "new" },
    { path: product, bytes: "new" },
  ];
  expect(() => requirePlaces([table, product], true)).toThrow(usage(/d\.safetensors is a directory/));
  expect(() => writeTogether(parts, true)).toThrow(usage(/d\.safetensors is a directory/));
  expect(readFileSync(table, "utf8")).toBe("old");
  const below = join(directory, "d.json", "d.safetensors");
  expect(() => requirePlaces([below], false)).toThrow(usage(/cannot be written/));
  const long = join(directory, `${"x".repeat(260)}.safetensors`);
  expect(() =>
    writeTogether(
      [
        { path: join(directory, "a.json"), bytes: "a" },
        { path: long, bytes: "b" },
      ],
      false,
    ),
  ).toThrow(usage(/cannot be written/));
  expect(readdirSync(directory).sort()).toEqual(["d.json", "d.safetensors"]);
});

it("follows no link: what one points to is not written over", () => {
  const directory = scratch();
  const precious = join(directory, "thesis.txt");
  writeFileSync(precious, "five years");
  const link = join(directory, "d.json");
  symlinkSync(precious, link);
  expect(() => requirePlaces([link], false)).toThrow(usage(/exists/));
  symlinkSync(join(directory, "nowhere"), join(directory, "d.safetensors"));
  expect(() => requirePlaces([join(directory, "d.safetensors")], false)).toThrow(usage(/exists/));
  writeTogether([{ path: link, bytes: "new" }], true);
  expect(readFileSync(precious, "utf8")).toBe("five years");
  expect(readFileSync(link, "utf8")).toBe("new");
  expect(existsSync(join(directory, "nowhere"))).toBe(false);
});
