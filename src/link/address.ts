/** Where a worker listens: what an address may be, and whether anybody is there. */
import { connect, isIPv6 } from "node:net";
import { resolve } from "node:path";
import { SparkablateError } from "../errors.ts";

/** What a socket's path may be long in sockaddr_un, less its closing zero. */
export const MAX_SOCKET_PATH_BYTES = process.platform === "linux" ? 107 : 103;
/** Nobody who listens takes longer to take a connection; a machine that is off says nothing at all. */
const REACH_DEADLINE_MS = 5_000;
const MAX_PORT = 65_535;

type Address = { readonly path: string } | { readonly host: string; readonly port: number };

/** @throws SparkablateError usage for what is no worker's address, with what is allowed. */
export function parseAddress(text: string): Address {
  const refuse = (why: string): never => {
    throw new SparkablateError("usage", `--worker ${text}: ${why}`, {
      help: "Give ipc:///path/of/a/socket, tcp://host:port, docker or spawn.",
    });
  };
  if (text.startsWith("ipc://")) {
    const path = text.slice("ipc://".length);
    if (path === "") refuse("the path of a socket is missing");
    if (Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES)
      refuse(`a socket's path has at most ${MAX_SOCKET_PATH_BYTES} bytes`);
    if (path.includes("\0")) refuse("a path has no zero bytes");
    return { path: resolve(path) };
  }
  const [, host = "", digits = ""] = /^tcp:\/\/([^/:*;]+|\[[^\]]+\]):(\d+)$/.exec(text) ?? [];
  if (host === "") refuse(text.startsWith("tcp://") ? "give host:port after tcp://" : "no such address");
  if (host.startsWith("[") && !isIPv6(host.slice(1, -1))) refuse("the brackets must hold an IPv6 address");
  const port = Number(digits);
  if (port < 1 || port > MAX_PORT) refuse(`a port is a number from 1 to ${MAX_PORT}`);
  return { host: host.replace(/^\[|\]$/g, ""), port };
}

/** Why nobody can be reached there, in words; null: somebody takes connections, or may do so in a moment. */
export async function unreachable(address: string, deadlineMs = REACH_DEADLINE_MS): Promise<string | null> {
  const { promise, resolve: answer } = Promise.withResolvers<string | null>();
  const place = parseAddress(address);
  // What ZeroMQ looks for: of a name, its IPv4 address.
  const family = "host" in place && !isIPv6(place.host) ? 4 : undefined;
  const socket = connect({ ...place, timeout: deadlineMs, ...(family && { family }) });
  socket.once("connect", () => answer(null));
  socket.once("timeout", () => answer(`no answer within ${deadlineMs / 1000} s`));
  socket.once("error", (error: NodeJS.ErrnoException) => answer(reason(error)));
  return await promise.finally(() => socket.destroy());
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such socket",
  ENOTDIR: "there is no such socket",
  ECONNREFUSED: "no worker listens there",
  ENOTSOCK: "this is not a socket",
  EPROTOTYPE: "this is not a worker's socket",
  EACCES: "the socket belongs to somebody else",
  EPERM: "the socket belongs to somebody else",
  ENOTFOUND: "no such host is known, or it has no IPv4 address (write an IPv6 address in brackets)",
  EAI_AGAIN: "the host's name could not be looked up",
};

function reason({ code = "", message }: NodeJS.ErrnoException): string | null {
  // Its queue of connections is full: somebody is there.
  if (code === "EAGAIN") return null;
  return REASONS[code] ?? message;
}
