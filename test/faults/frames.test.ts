/** Malformed frames by the thousand, to a real worker and from a hostile one: nothing breaks, nothing changes. */

import { readFileSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, it, onTestFinished } from "vitest";
import { Dealer } from "zeromq";
import { Client } from "../../src/link/client.ts";
import { pack } from "../../src/link/msgpack.ts";
import { spawnWorker } from "../../src/link/spawn.ts";
import { MAX_ENVELOPE_BYTES, MAX_PAYLOAD_BYTES } from "../../src/protocol/messages.ts";
import { packIds } from "../../src/samples/bytes.ts";
import { abuse, exampleNames, examples } from "../contract/examples.ts";
import { tinyModel, until } from "../fixtures/harness.ts";
import { isLong, repeatable, SEED } from "../fixtures/rounds.ts";
import { listen } from "../fixtures/router.ts";
import { uniforms } from "../unit/statistics/random.ts";

/** Frames of each direction. */
const FRAMES = isLong ? 10_000 : 600;
const MOST_GROWTH_MIB = 64;
const TIMEOUT = 120_000 + FRAMES * 60;

/** What is held, not what the collector has not come to yet, is what a memory test is about. */
function collect(): void {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
}

type Random = () => number;

const whole = (random: Random, below: number): number => Math.floor(random() * below);
const bytes = (random: Random, length: number): Buffer =>
  Buffer.from(Uint8Array.from({ length }, () => whole(random, 256)));

/** Valid messages as the other side writes them. */
function golden(receiver: "worker" | "controller"): Buffer[] {
  const names =
    receiver === "worker"
      ? exampleNames("requests").map((name) => `requests/${name}`)
      : [
          ...exampleNames("results").map((name) => `results/${name}`),
          ...exampleNames("events").map((name) => `events/${name}`),
          "failure",
        ];
  return names.flatMap((name) => examples(name).valid.map(({ msgpack }) => Buffer.from(msgpack, "hex")));
}

/** Endless malformed messages of 1 to 4 frames, or rather: nearly all of them malformed. */
function* malformed(receiver: "worker" | "controller", random: Random): Generator<Buffer[]> {
  const valid = golden(receiver);
  // No frames at all cannot be sent, and what exceeds the socket's own limit has its own test.
  const known = abuse(receiver).filter(
    ({ frames }) => frames.length > 0 && frames.every(({ length }) => length <= MAX_PAYLOAD_BYTES),
  );
  const pick = <T>(list: readonly T[]): T => list[whole(random, list.length)] as T;
  const flipped = (message: Buffer, flips: number): Buffer => {
    const copy = Buffer.from(message);
    for (let flip = 0; flip < flips; flip++) {
      const at = whole(random, copy.length);
      copy[at] = (copy[at] as number) ^ (1 << whole(random, 8));
    }
    return copy;
  };
  const kinds: readonly (() => Buffer[])[] = [
    () => [bytes(random, whole(random, 200)), bytes(random, whole(random, 50))],
    () => [flipped(pick(valid), 1 + whole(random, 4)), Buffer.alloc(0)],
    () => [flipped(pick(valid), 1 + whole(random, 4)), bytes(random, whole(random, 50))],
    () => [pick(valid).subarray(0, -1 - whole(random, 20)), Buffer.alloc(0)],
    () => Array.from({ length: pick([1, 3, 4]) }, () => pick(valid)),
    () => pick(known).frames,
  ];
  for (let count = 1; ; count++) {
    yield count % 200 === 0
      ? [Buffer.alloc(MAX_ENVELOPE_BYTES + 1 + whole(random, 1000), 0x91), Buffer.alloc(0)]
      : pick(kinds)();
  }
}

const residentMiB = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;

it("to a worker: the session that holds it works on, and measures the same bits", {
  timeout: TIMEOUT,
}, async () => {
  console.log(`frames to the worker: ${FRAMES} ${repeatable}`);
  const random = uniforms(SEED);
  const worker = spawnWorker();
  onTestFinished(() => worker.kill());
  const client = new Client(worker.address, worker.died);
  onTestFinished(() => client.close());
  await client.hello("an honest run");
  const model = {
    name: tinyModel(),
    revision: null,
    dtype: "float32",
    device: "cpu",
    device_map: null,
    attn_implementation: null,
    threads: 1,
    trust_remote_code: false,
  } as const;
  await client.call("load", { model, seq_len: 32, batch_size: 2, may_offload: false });
  const payload = packIds([Int32Array.from({ length: 64 }, () => whole(random, 258))]);
  const measure = async (): Promise<string[]> => {
    const sums: string[] = [];
    await client.call(
      "evaluate",
      {
        seq_len: 32,
        blocks: [0, 1],
        answers: null,
        donors: [],
        conditions: [
          { id: "baseline", interventions: [] },
          { id: "L1", interventions: [{ kind: "layer", layer: 1, mode: "skip" }] },
        ],
        metrics: ["nll"],
        means_sha256: null,
      },
      {
        payload,
        onEvent: (event, sent) => {
          if (event.type === "measurement") sums.push(event.condition + Buffer.from(sent).toString("hex"));
        },
      },
    );
    return sums.sort();
  };
  const before = await measure();
  expect(before).toHaveLength(2);

  let hostile = new Dealer({ linger: 0 });
  const reconnect = (): void => {
    if (!hostile.closed) hostile.close();
    hostile = new Dealer({ linger: 0 });
    hostile.connect(worker.address);
    const socket = hostile;
    // Answers are read and thrown away, so that they pile up nowhere.
    const drain = async (): Promise<void> => {
      for await (const _ of socket) {
        // nothing
      }
    };
    drain().catch(() => undefined); // closed while it was reading
  };
  reconnect();
  onTestFinished(() => hostile.close());
  const frames = malformed("worker", random);
  const send = async (count: number): Promise<void> => {
    for (let sent = 0; sent < count; sent++) {
      await hostile.send(frames.next().value as Buffer[]);
      if (sent % 50 === 49) await client.call("ping", {});
    }
    await client.call("ping", {});
  };
  // The first hundred warm up what any work would: caches and the allocator.
  await send(100);
  const resident = residentMiB(worker.pid);
  await send(FRAMES);
  const grown = residentMiB(worker.pid) - resident;
  console.log(`the worker's memory grew by ${grown.toFixed(1)} MiB over ${FRAMES} frames`);
  expect(grown).toBeLessThan(MOST_GROWTH_MIB);
  // A frame over the socket's own limit ends its connection and nothing else.
  for (let round = 0; round < 3; round++) {
    await hostile.send([pack({}), Buffer.alloc(MAX_PAYLOAD_BYTES + 1)]);
    await client.call("ping", {});
    reconnect();
  }
  expect(await measure()).toEqual(before);
});

it("from a worker: whoever waits is told, and the next good answer is taken", {
  timeout: TIMEOUT,
}, async () => {
  console.log(`frames to the controller: ${FRAMES} ${repeatable}`);
  const random = uniforms(SEED + 1);
  const frames = malformed("controller", random);
  let garbage = 0;
  const address = await listen(async ({ request, raw, reply }) => {
    for (; garbage > 0; garbage--) await raw(...(frames.next().value as Buffer[]));
    await reply(
      request.type === "ping" ? {} : { tokens: 3, truncated: false, notices: [] },
      Buffer.from("abc"),
    );
  });
  const client = new Client(address, new Promise(() => undefined));
  onTestFinished(() => client.close());
  await client.hello("a run");
  // Past the golden messages' own ids, which would answer a call of ours.
  for (let id = 0; id < 16; id++) await client.call("ping", {});

  const good = async (): Promise<boolean> => {
    try {
      const { result, payload } = await client.call("tokenize", { dataset: null, max_tokens: 9 });
      expect(result).toEqual({ tokens: 3, truncated: false, notices: [] });
      expect(Buffer.from(payload).toString()).toBe("abc");
      return true;
    } catch (error) {
      expect(error).toMatchObject({ name: "SparkablateError" });
      return false;
    }
  };
  const receive = async (count: number): Promise<void> => {
    for (let left = count; left > 0; left -= 50) {
      garbage = Math.min(50, left);
      // Each of the 50 may fail the call that waits just then.
      let answered = false;
      for (let attempt = 0; attempt < 60 && !answered; attempt++) answered = await good();
      expect(answered).toBe(true);
    }
  };
  await receive(100);
  collect();
  const resident = process.memoryUsage.rss();
  await receive(FRAMES);
  collect();
  const grown = (process.memoryUsage.rss() - resident) / 2 ** 20;
  console.log(`the controller's memory grew by ${grown.toFixed(1)} MiB over ${FRAMES} frames`);
  expect(grown).toBeLessThan(MOST_GROWTH_MIB);
  expect(await good()).toBe(true);
});

it("a worker that floods without being asked is read without end and without growth", {
  timeout: TIMEOUT,
}, async () => {
  const event = { type: "log", level: "info", message: "m".repeat(1000) };
  let flooded = false;
  const address = await listen(async ({ request, send, reply }) => {
    await reply({});
    for (let count = 0; count < 20_000; count++) await send({ ...event, id: request.id });
    flooded = true;
  });
  const client = new Client(address, new Promise(() => undefined));
  onTestFinished(() => client.close());
  await client.hello("a run");
  await client.call("ping", {});
  collect();
  const resident = process.memoryUsage.rss();
  await until(() => flooded, 60, "the flood ends");
  await client.call("ping", {});
  collect();
  const grown = (process.memoryUsage.rss() - resident) / 2 ** 20;
  console.log(`the controller's memory grew by ${grown.toFixed(1)} MiB over the flood`);
  expect(grown).toBeLessThan(MOST_GROWTH_MIB);
});
