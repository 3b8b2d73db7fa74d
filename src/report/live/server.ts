/** Serves the live page on loopback, to this machine's browsers only. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { SparkablateError } from "../../errors.ts";
import { namesWrittenOut } from "../document.ts";
import { renderLivePage } from "./page.ts";
import type { RunWatch } from "./watch.ts";

const LOOPBACK = "127.0.0.1";

export interface LiveServer extends AsyncDisposable {
  readonly url: string;
}

/**
 * @param port 0: any free one.
 * @throws SparkablateError usage where the port is taken or not ours to take.
 */
export async function serveLive(watch: RunWatch, port: number): Promise<LiveServer> {
  const page = renderLivePage();
  const server = createServer((request, response) => answer(request, response, server, page, watch));
  await new Promise<void>((listening, fail) => {
    server.once("error", (error: NodeJS.ErrnoException) => fail(listenError(error, port)));
    server.listen({ host: LOOPBACK, port, exclusive: true }, listening);
  });
  return {
    url: `http://${LOOPBACK}:${portOf(server)}/`,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  server: Server,
  page: string,
  watch: RunWatch,
): void {
  const end = (status: number, type: string, body: string, headers: Record<string, string> = {}): void => {
    response.writeHead(status, {
      "content-type": `${type}; charset=utf-8`,
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cross-origin-resource-policy": "same-origin",
      "x-frame-options": "DENY",
      ...headers,
    });
    response.end(request.method === "HEAD" ? undefined : body);
  };
  // A name that an attacker's DNS points at 127.0.0.1 arrives with that name.
  if (!isOurHost(request.headers.host, portOf(server))) {
    end(403, "text/plain", `ask for http://${LOOPBACK}:${portOf(server)}/\n`);
    return;
  }
  if (request.method !== "GET" && request.method !== "HEAD") {
    end(405, "text/plain", "GET only\n", { allow: "GET, HEAD" });
    return;
  }
  switch (request.url) {
    case "/":
      end(200, "text/html", page);
      break;
    case "/state": {
      const { etag, state } = watch.look();
      if (request.headers["if-none-match"] === etag) end(304, "application/json", "", { etag });
      else end(200, "application/json", JSON.stringify(state, namesWrittenOut), { etag });
      break;
    }
    case "/favicon.ico":
      end(204, "image/x-icon", "");
      break;
    default:
      end(404, "text/plain", "there is / and /state\n");
  }
}

const portOf = (server: Server): number => (server.address() as AddressInfo).port;

function isOurHost(host: string | undefined, port: number): boolean {
  return [LOOPBACK, "localhost"].some((name) => host?.toLowerCase() === `${name}:${port}`);
}

function listenError(error: NodeJS.ErrnoException, port: number): unknown {
  if (error.code !== "EADDRINUSE" && error.code !== "EACCES") return error;
  const why = error.code === "EACCES" ? "may not be used by you" : "is in use";
  return new SparkablateError("usage", `port ${port} ${why}`, {
    cause: error,
    help: "Give another --port, or leave it out to use a free one.",
  });
}
