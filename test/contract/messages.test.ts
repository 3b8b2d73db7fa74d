/** The controller's side of the contract: test/contract/README.md. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../src/environment/environment.ts";
import { SparkablateError } from "../../src/errors.ts";
import { decode, encode } from "../../src/link/channel.ts";
import { pack, unpack } from "../../src/link/msgpack.ts";
import { events, type Request, type RequestType, requests, results } from "../../src/protocol/messages.ts";
import { abuse, exampleNames, examples } from "./examples.ts";

const frames = (message: unknown): [Buffer, Buffer] => [pack(message), Buffer.alloc(0)];
const invalid = expect.objectContaining({ code: "invalid_message" });

describe("every message type has examples", () => {
  it.each([
    ["requests", requests],
    ["results", results],
    ["events", events],
  ] as const)("%s", (kind, table) => {
    expect(exampleNames(kind).sort()).toEqual(Object.keys(table).sort());
    for (const name of Object.keys(table)) {
      const { valid, invalid } = examples(`${kind}/${name}`);
      expect(valid.length, name).toBeGreaterThan(0);
      expect(invalid.length, name).toBeGreaterThan(1);
    }
  });
});

describe.each(exampleNames("requests") as RequestType[])("request %s", (name) => {
  const { valid, invalid } = examples(`requests/${name}`);
  it("is sent as these bytes", () => {
    for (const { message, msgpack } of valid) {
      expect(encode(message as unknown as Request).toString("hex")).toBe(msgpack);
      expect(unpack(Buffer.from(msgpack, "hex"))).toEqual(message);
    }
  });
  it.each(invalid)("is not sent with $why", ({ message }) => {
    expect(requests[name].safeParse(message).success).toBe(false);
  });
});

describe.each(exampleNames("results") as RequestType[])("result of %s", (name) => {
  const { valid, invalid } = examples(`results/${name}`);
  it("is read from the worker's bytes", () => {
    for (const { message, msgpack } of valid) {
      const incoming = decode([Buffer.from(msgpack, "hex"), Buffer.from("payload")]);
      expect(incoming.message).toEqual({ type: "reply", id: 7, result: message });
      expect(results[name].parse((incoming.message as { result: unknown }).result)).toEqual(message);
      expect(Buffer.from(incoming.payload).toString()).toBe("payload");
    }
  });
  it.each(invalid)("is refused with $why", ({ message }) => {
    expect(results[name].safeParse(message).success).toBe(false);
  });
});

describe.each([...exampleNames("events").map((name) => `events/${name}`), "failure"])("%s", (name) => {
  const { valid, invalid: wrong } = examples(name);
  it("is read from the worker's bytes", () => {
    for (const { message, msgpack } of valid)
      expect(decode([Buffer.from(msgpack, "hex"), Buffer.alloc(0)]).message).toEqual(message);
  });
  it.each(wrong)("is refused with $why", ({ message }) => {
    expect(() => decode(frames(message))).toThrow(invalid);
  });
});

describe("frames that are no message", () => {
  it.each(abuse("controller"))("$why", ({ frames }) => {
    expect(() => decode(frames)).toThrow(SparkablateError);
    expect(() => decode(frames)).toThrow(invalid);
  });

  it("are refused as quickly as they are read", () => {
    const began = performance.now();
    for (const { frames } of abuse("controller")) expect(() => decode(frames)).toThrow();
    // Tens of milliseconds by hand; a forged length that is believed takes seconds.
    expect(performance.now() - began).toBeLessThan(2_000);
  });
});

it("what was generated from the protocol is current", () => {
  const script = join(packageRoot(), "scripts", "generate.ts");
  expect(execFileSync(process.execPath, [script, "--check"]).toString()).toBe("");
});
