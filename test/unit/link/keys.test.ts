/** Keys on disk: who may read them, what replaces them, and what is said where they are missing. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { beforeEach, expect, it, vi } from "vitest";
import { makeKeyPair } from "../../../src/link/channel.ts";
import { keysDirectory, keysFor, readControllerKeys, writeKeys } from "../../../src/link/keys.ts";
import { scratch } from "../../fixtures/harness.ts";

const NAMES = ["controller.key", "controller.pub", "worker.key", "worker.pub"];
const refusal = (code: string, message: RegExp, help = /./) =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(message),
    help: expect.stringMatching(help),
  });

beforeEach(() => {
  vi.stubEnv("XDG_CONFIG_HOME", undefined);
  vi.stubEnv("SPARKABLATE_KEYS", undefined);
  return () => vi.unstubAllEnvs();
});

it("writes two pairs that nobody else may read, and reads the controller's side back", () => {
  const directory = join(scratch(), "new", "keys");
  const { files, narrowed } = writeKeys(directory, makeKeyPair, false);
  expect(narrowed).toBeNull();
  expect(files.map((file) => file.slice(directory.length + 1)).toSorted()).toEqual(NAMES);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
  for (const file of files) expect(statSync(file).mode & 0o777).toBe(0o600);
  const texts = NAMES.map((name) => readFileSync(join(directory, name), "utf8").trim());
  expect(new Set(texts).size).toBe(4);
  const [secretKey, publicKey, , workerKey] = texts;
  expect(readControllerKeys(directory)).toEqual({ secretKey, publicKey, workerKey });
});

it("keeps keys that are there, unless it is told to replace them; then nobody else may read the new ones", () => {
  const directory = scratch();
  const [file = ""] = writeKeys(directory, makeKeyPair, false).files;
  const before = readFileSync(file, "utf8");
  expect(() => writeKeys(directory, makeKeyPair, false)).toThrow(refusal("usage", /exists$/, /--force/));
  expect(readFileSync(file, "utf8")).toBe(before);
  chmodSync(file, 0o644);
  chmodSync(directory, 0o755);
  expect(writeKeys(directory, makeKeyPair, true).narrowed).toBe(0o755);
  expect(readFileSync(file, "utf8")).not.toBe(before);
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(statSync(directory).mode & 0o777).toBe(0o700);
});

it("one pair that is there is not overwritten either", () => {
  const directory = scratch();
  writeFileSync(join(directory, "worker.pub"), "precious\n");
  expect(() => writeKeys(directory, makeKeyPair, false)).toThrow(refusal("usage", /worker\.pub exists/));
  expect(existsSync(join(directory, "controller.key"))).toBe(false);
});

it("refuses a directory that others use too, and leaves its mode alone", () => {
  const home = scratch();
  vi.stubEnv("HOME", home);
  chmodSync(home, 0o755);
  const sticky = join(home, "shared");
  mkdirSync(sticky);
  chmodSync(sticky, 0o1777);
  symlinkSync(home, join(sticky, "link"));
  const places = ["/", tmpdir(), home, dirname(home), `${home}/shared/..`, sticky, join(sticky, "link")];
  for (const directory of places) {
    const { mode } = statSync(directory);
    expect(() => writeKeys(directory, makeKeyPair, true), directory).toThrow(
      refusal("usage", /holds more than keys/),
    );
    expect(statSync(directory).mode, directory).toBe(mode);
    expect(existsSync(join(directory, "worker.pub")), directory).toBe(false);
  }
  // Below it is where keys belong.
  expect(writeKeys(join(home, ".config", "keys"), makeKeyPair, false).narrowed).toBeNull();
});

it("names a key that is open to others, missing or broken, and never shows it", () => {
  const directory = scratch();
  writeKeys(directory, makeKeyPair, false);
  const secret = join(directory, "controller.key");
  chmodSync(secret, 0o640);
  expect(() => readControllerKeys(directory)).toThrow(
    refusal("input_missing", /others may read .*controller\.key/, /chmod 600/),
  );
  chmodSync(secret, 0o600);
  const typo = `${readFileSync(secret, "utf8").trim().slice(1)}~`;
  writeFileSync(secret, typo);
  let message = "";
  try {
    readControllerKeys(directory);
  } catch (error) {
    message = String(error);
  }
  expect(message).toContain("controller.key does not hold a key");
  expect(message).not.toContain(typo.slice(0, 10));
});

it("finds the directory: the flag, then $SPARKABLATE_KEYS, then the configuration directory", () => {
  vi.stubEnv("XDG_CONFIG_HOME", "/configuration");
  expect(keysDirectory()).toBe("/configuration/sparkablate/keys");
  vi.stubEnv("SPARKABLATE_KEYS", "/elsewhere");
  expect(keysDirectory()).toBe("/elsewhere");
  expect(keysDirectory("/asked")).toBe("/asked");
});

it("asks for keys wherever others could reach the address, and uses them wherever there are any", () => {
  const directory = scratch();
  vi.stubEnv("XDG_CONFIG_HOME", directory);
  const remedy = /sparkablate keys init'/;
  for (const address of [
    "tcp://0.0.0.0:5757",
    "tcp://*:5757",
    "tcp://10.0.0.7:5757",
    "tcp://spark.local:5757",
  ])
    expect(() => keysFor(address, "worker")).toThrow(
      refusal("input_missing", /worker\.key.*reached/, remedy),
    );
  // A name that only begins like loopback is not loopback.
  expect(() => keysFor("tcp://127.0.0.1.example.org:5757", "controller")).toThrow(
    refusal("input_missing", /controller\.key/, remedy),
  );
  for (const address of ["tcp://127.0.0.1:5757", "tcp://localhost:5757", "tcp://[::1]:5757", "ipc:///run/s"])
    expect(keysFor(address, "controller")).toBeNull();
  // Who names a directory wants its keys.
  const empty = join(directory, "empty");
  expect(() => keysFor("tcp://127.0.0.1:5757", "controller", empty)).toThrow(
    refusal("input_missing", /empty/, new RegExp(`keys init --keys ${empty}`)),
  );
  vi.stubEnv("SPARKABLATE_KEYS", empty);
  expect(() => keysFor("tcp://127.0.0.1:5757", "controller")).toThrow(refusal("input_missing", /empty/));
  writeKeys(empty, makeKeyPair, false);
  expect(keysFor("tcp://127.0.0.1:5757", "controller")).toBe(empty);
  expect(keysFor("tcp://10.0.0.7:5757", "worker")).toBe(empty);
  expect(keysFor("ipc:///run/s", "controller")).toBeNull();
});
