/** Addresses as people type them, and sockets on which nobody listens. */
import { writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { MAX_SOCKET_PATH_BYTES, parseAddress, unreachable } from "../../../src/link/address.ts";
import { scratch } from "../../fixtures/harness.ts";

it.each([
  ["ipc:///run/worker.sock", { path: "/run/worker.sock" }],
  ["ipc://worker.sock", { path: join(process.cwd(), "worker.sock") }],
  ["tcp://localhost:5757", { host: "localhost", port: 5757 }],
  ["tcp://10.0.0.1:1", { host: "10.0.0.1", port: 1 }],
  ["tcp://[::1]:65535", { host: "::1", port: 65535 }],
])("%s is one", (text, expected) => {
  expect(parseAddress(text)).toEqual(expected);
});

it.each([
  ["", "no such address"],
  ["localhost:5757", "no such address"],
  ["http://localhost:5757", "no such address"],
  ["Docker", "no such address"],
  ["ipc://", "the path of a socket is missing"],
  [`ipc:///${"x".repeat(MAX_SOCKET_PATH_BYTES)}`, "a socket's path has at most"],
  ["ipc:///a\0b", "zero bytes"],
  ["tcp://localhost", "give host:port"],
  ["tcp://localhost:", "give host:port"],
  ["tcp://*:5757", "give host:port"],
  ["tcp://localhost:0", "a port is a number from 1 to 65535"],
  ["tcp://localhost:65536", "a port is a number from 1 to 65535"],
  ["tcp://localhost:5757/path", "give host:port"],
  ["tcp://::1:5757", "give host:port"],
  ["tcp://[localhost]:5757", "the brackets must hold an IPv6 address"],
  ["tcp://[127.0.0.1]:5757", "the brackets must hold an IPv6 address"],
])("%j is none", (text, why) => {
  expect(() => parseAddress(text)).toThrow(
    expect.objectContaining({ code: "usage", message: expect.stringContaining(why) }),
  );
});

describe("nobody is there", () => {
  it("no socket, a file, a dead one's socket, a port that is closed", async () => {
    const directory = scratch();
    expect(await unreachable(`ipc://${directory}/none`)).toBe("there is no such socket");
    expect(await unreachable(`ipc://${directory}/none/either`)).toBe("there is no such socket");
    writeFileSync(join(directory, "file"), "");
    expect(await unreachable(`ipc://${directory}/file`)).toMatch(
      /no worker listens there|this is not a socket/,
    );
    const server = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as { port: number };
    expect(await unreachable(`tcp://127.0.0.1:${port}`)).toBeNull();
    await new Promise((resolve) => server.close(resolve));
    expect(await unreachable(`tcp://127.0.0.1:${port}`)).toBe("no worker listens there");
    expect(await unreachable("tcp://nobody.invalid:5757")).toMatch(/host/);
  });

  it("a name is looked for where ZeroMQ looks for it: at its IPv4 address", async () => {
    const server = createServer().listen(0, "::1");
    onTestFinished(() => void server.close());
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as { port: number };
    expect(await unreachable(`tcp://[::1]:${port}`)).toBeNull();
    expect(await unreachable(`tcp://localhost:${port}`)).toBe("no worker listens there");
  });

  it("a socket with a listener is reached, whatever listens", async () => {
    const path = join(scratch(), "s");
    const server = createServer().listen(path);
    onTestFinished(() => void server.close());
    await new Promise((resolve) => server.once("listening", resolve));
    expect(await unreachable(`ipc://${path}`)).toBeNull();
  });
});
