/** Typed calls over a real socket, against a peer that answers well, badly, late or not at all. */
import { expect, it, onTestFinished, vi } from "vitest";
import { SparkablateError } from "../../../src/errors.ts";
import { Client } from "../../../src/link/client.ts";
import { type Event, MAX_PAYLOAD_BYTES } from "../../../src/protocol/messages.ts";
import { type Conversation, GREETING, listen } from "../../fixtures/router.ts";

const never = new Promise<SparkablateError>(() => undefined);

async function connect(
  answer: (conversation: Conversation) => Promise<void> | void,
  { died = never, greeting = GREETING as unknown } = {},
): Promise<Client> {
  const client = new Client(await listen(answer, greeting), died);
  onTestFinished(() => client.close());
  await client.hello("a run");
  return client;
}

const coded = (code: string, message?: RegExp) =>
  expect.objectContaining({ code, ...(message && { message: expect.stringMatching(message) }) });

const TOKENIZE = { dataset: null, max_tokens: 10 };

it("sends the session, and gives the result with its payload", async () => {
  const seen: unknown[] = [];
  const client = await connect(({ request, payload, reply }) => {
    seen.push({ ...request, payload: payload.toString() });
    return reply({ tokens: 2, truncated: false, notices: [] }, Buffer.from("ab"));
  });
  const { result, payload } = await client.call("tokenize", TOKENIZE, { payload: Buffer.from("text") });
  expect(result).toEqual({ tokens: 2, truncated: false, notices: [] });
  expect(Buffer.from(payload).toString()).toBe("ab");
  expect(seen).toEqual([{ type: "tokenize", id: 1, session: "a session", ...TOKENIZE, payload: "text" }]);
});

it("gives events to the call they belong to, in order", async () => {
  const client = await connect(async ({ request: { id }, send, reply }) => {
    await send({ type: "log", id, level: "info", message: "one" });
    await send({ type: "log", id: id + 1000, level: "info", message: "another call's" });
    await send({ type: "log", id, level: "info", message: "two" });
    await reply({ tokens: 0, truncated: false, notices: [] });
    await send({ type: "log", id, level: "info", message: "after the reply" });
  });
  const messages: string[] = [];
  const onEvent = (event: Event): void => void (event.type === "log" && messages.push(event.message));
  await client.call("tokenize", TOKENIZE, { onEvent });
  await client.call("tokenize", TOKENIZE);
  expect(messages).toEqual(["one", "two"]);
});

it("turns a failure into the coded error with the traceback", async () => {
  const error = { code: "load_failed", message: "no such file", detail: "Traceback…" };
  const client = await connect(({ request: { id }, send }) => send({ type: "failure", id, error }));
  const failed = client.call("ping", {});
  await expect(failed).rejects.toBeInstanceOf(SparkablateError);
  await expect(failed).rejects.toMatchObject(error);
});

it("refuses a result of another shape, in few words", async () => {
  let results: unknown[] = [
    { tokens: -1, truncated: false, notices: [] },
    { tokens: 1 },
    null,
    { tokens: 1, truncated: true, notices: [], x: 1 },
  ];
  results = [...results, Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`k${index}`, 1]))];
  const client = await connect(({ reply }) => reply(results.shift()));
  while (results.length > 0) {
    const called = client.call("tokenize", TOKENIZE);
    await expect(called).rejects.toThrow(
      coded("invalid_message", /^the result of tokenize from the worker: /),
    );
    await called.catch((error) => expect(error.message.length).toBeLessThan(600));
  }
});

it("tells whoever waits of a frame that is no message, and goes on", async () => {
  let garbage = true;
  const client = await connect(async ({ raw, reply }) => {
    if (garbage) await raw(Buffer.from([0xc1]), Buffer.alloc(0));
    else await reply({});
  });
  await expect(client.call("ping", {})).rejects.toThrow(coded("invalid_message"));
  garbage = false;
  await expect(client.call("ping", {})).resolves.toMatchObject({ result: {} });
});

it("tells whoever waits of a failure without an id: their request could not be read", async () => {
  const error = { code: "invalid_message", message: "not msgpack", detail: "what came" };
  const client = await connect(({ send }) => send({ type: "failure", id: null, error }));
  await expect(client.call("ping", {})).rejects.toMatchObject(error);
});

it("ignores replies nobody waits for", async () => {
  const client = await connect(async ({ request: { id }, send, reply }) => {
    await send({ type: "reply", id: id + 1000, result: { forged: true } });
    await send({ type: "failure", id: id + 1000, error: { code: "internal", message: "", detail: "" } });
    await reply({});
    await reply({});
  });
  for (let round = 0; round < 3; round++) await client.call("ping", {});
});

it("gives up after the deadline without a sign of work, and every event renews it", async () => {
  const client = await connect(async ({ request, send, reply }) => {
    if (request.type !== "tokenize") return;
    for (let done = 0; done < 6; done++) {
      await send({ type: "progress", id: request.id, stage: "tokenize", done, total: 6, unit: "MB" });
      await new Promise((resolve) => setTimeout(resolve, 400));
    }
    await reply({ tokens: 0, truncated: false, notices: [] });
  });
  await client.call("tokenize", TOKENIZE, { deadlineMs: 1_500 });
  await expect(client.call("ping", {}, { deadlineMs: 50 })).rejects.toThrow(coded("worker_stalled"));
});

it("rejects a call whose event handler throws, and later calls work", async () => {
  const client = await connect(async ({ request: { id }, send, reply }) => {
    await send({ type: "log", id, level: "info", message: "now" });
    await reply({});
  });
  const broken = new Error("the disk is full");
  await expect(
    client.call(
      "ping",
      {},
      {
        onEvent: () => {
          throw broken;
        },
      },
    ),
  ).rejects.toBe(broken);
  await client.call("ping", {});
});

it("does not send what breaks the schema or the limits; nothing waits for it afterwards", async () => {
  const client = await connect(({ reply }) => reply({ tokens: 0, truncated: false, notices: [] }));
  const timers = vi.spyOn(globalThis, "clearTimeout");
  const payload = new Uint8Array(MAX_PAYLOAD_BYTES + 1);
  await expect(client.call("tokenize", TOKENIZE, { payload })).rejects.toThrow(coded("internal", /payload/));
  await expect(client.call("tokenize", { dataset: null, max_tokens: -1 })).rejects.toThrow(
    coded("internal", /tokenize: max_tokens/),
  );
  const interventions = Array(4096).fill({ kind: "layer", layer: 0, mode: "skip" });
  const conditions = Array.from({ length: 256 }, (_, index) => ({ id: `c${index}`, interventions }));
  const fields = {
    seq_len: 2,
    blocks: [0],
    answers: null,
    donors: [],
    conditions,
    metrics: ["nll"],
    means_sha256: null,
  };
  await expect(client.call("evaluate", fields)).rejects.toThrow(coded("internal", /over the limit/));
  expect(timers).toHaveBeenCalledTimes(3);
  timers.mockRestore();
  await client.call("tokenize", TOKENIZE);
});

it("rejects what waits, and all later calls, when the worker's process ends", async () => {
  let die: (error: SparkablateError) => void = () => undefined;
  const died = new Promise<SparkablateError>((resolve) => {
    die = resolve;
  });
  const client = await connect(() => undefined, { died });
  const waiting = client.call("ping", {});
  die(new SparkablateError("worker_died", "it ended by SIGKILL"));
  await expect(waiting).rejects.toThrow(coded("worker_died"));
  await expect(client.call("ping", {})).rejects.toThrow(coded("worker_died"));
});

it("rejects what waits when it is closed", async () => {
  const client = await connect(() => undefined);
  const waiting = client.call("ping", {});
  client.close();
  client.close();
  await expect(waiting).rejects.toThrow(coded("interrupted"));
});

it("is told of a greeting it does not understand", async () => {
  await expect(connect(() => undefined, { greeting: { ...GREETING, slots: 0 } })).rejects.toThrow(
    coded("invalid_message", /hello.*slots/),
  );
});

it("tells those who wait for work that their session is lost, as its ping learns of it", async () => {
  vi.useFakeTimers({ toFake: ["setInterval"] });
  onTestFinished(() => void vi.useRealTimers());
  const error = { code: "session_lost", message: "say hello again", detail: "" };
  const client = await connect(async ({ request, send }) => {
    if (request.type === "ping") await send({ type: "failure", id: request.id, error });
  });
  const waiting = client.call("tokenize", TOKENIZE);
  vi.advanceTimersByTime(5_000);
  await expect(waiting).rejects.toMatchObject({ code: "session_lost" });
});

it("gives up on a worker that answers nothing for two minutes", async () => {
  vi.useFakeTimers({ toFake: ["setInterval", "setTimeout", "clearTimeout", "clearInterval"] });
  onTestFinished(() => void vi.useRealTimers());
  const client = await connect(() => undefined);
  const waiting = expect(client.call("tokenize", TOKENIZE)).rejects.toThrow(coded("worker_unreachable"));
  await vi.advanceTimersByTimeAsync(135_000);
  await waiting;
});
