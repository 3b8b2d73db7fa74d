import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, describe, expect, test } from "vitest";
import { type LiveServer, serveLive } from "../../../src/report/live/server.ts";
import { RunWatch, type Snapshot } from "../../../src/report/live/watch.ts";
import { databasePath, RunStore } from "../../../src/store/sqlite.ts";
import { hasBrowser, inBrowser, launchBrowser, visit } from "../../fixtures/browser.ts";
import { facts, head, sweep } from "../planted.ts";
import { plantRun } from "../planted-run.ts";

const scratch = mkdtempSync(join(tmpdir(), "live-"));
afterAll(() => rmSync(scratch, { recursive: true }));

const HEADS = 6;
const BLOCKS = 32;
const { baseline, conditions } = sweep(
  Array.from({ length: HEADS }, (_, index) => ({ of: head(1, index), mean: 0.1 * (index + 1), sd: 0.05 })),
  BLOCKS,
);
const upTo = (blocks: number) =>
  [baseline, ...conditions].map((one) => ({
    ...one,
    blocks: one.blocks.slice(0, blocks),
    sums: { nll: one.sums.nll?.slice(0, blocks) as Float64Array },
  }));

/** A run that has measured so many blocks and is not finished. */
function plantRunning(directory: string, blocks: number): void {
  const [first, ...others] = upTo(blocks);
  plantRun(
    directory,
    facts({
      name: "running",
      sweep: "heads",
      planned_conditions: HEADS,
      planned_blocks: BLOCKS,
      finished: null,
    }),
    first as NonNullable<typeof first>,
    others,
  );
}

/** The blocks from `from` on, through a connection that stays open, as a sweep's does. */
function measureMore(store: RunStore, from: number): void {
  for (const [condition, { blocks, sums }] of [baseline, ...conditions].entries()) {
    store.record({
      condition,
      batch: 1,
      blocks: blocks.slice(from),
      sums: { nll: sums.nll?.slice(from) as Float64Array },
      seconds: 1,
      flags: [],
      error: null,
    });
  }
  store.flush();
}

/** A look at a time when the watch may have read again. */
async function lookAgain(watch: RunWatch): Promise<Snapshot> {
  await new Promise((resolve) => setTimeout(resolve, 1_100));
  return watch.look();
}

/** The next that it sees: on a busy machine it reads less often. */
async function news(watch: RunWatch, before: Snapshot): Promise<Snapshot> {
  await expect.poll(() => watch.look().etag, { timeout: 20_000 }).not.toBe(before.etag);
  return watch.look();
}

describe("a watched run", () => {
  test("waits for it, follows it while a writer holds it, and sees its end", async () => {
    const directory = join(scratch, "follow");
    const watch = new RunWatch(directory);
    const none = watch.look();
    expect(none.state).toMatchObject({ phase: "waiting", page: null });
    plantRunning(directory, 8);
    const store = RunStore.open(directory);
    try {
      const early = await news(watch, none);
      expect(early.state).toMatchObject({ phase: "running", share: 8 / BLOCKS });
      expect(early.state.page?.rows.map(({ cells }) => cells[2])).toEqual(
        [5, 4, 3, 2, 1, 0].map((index) => `L1.head[${index}].zero`),
      );
      const unchanged = await lookAgain(watch);
      expect(unchanged).toBe(early);
      measureMore(store, 8);
      const late = await news(watch, early);
      expect(late.state).toMatchObject({ phase: "running", share: 1 });
      const width = ({ state }: typeof late) => {
        const [chart] = state.page?.charts.slice(1) ?? [];
        if (chart?.type !== "bars") throw new Error("the ranking's bars are missing");
        return (chart.bars[0]?.high as number) - (chart.bars[0]?.low as number);
      };
      expect(width(late)).toBeLessThan(width(early));
      store.finish("2026-11-25T01:00:00.000Z");
      expect((await news(watch, late)).state).toMatchObject({ phase: "finished", share: 1 });
    } finally {
      store.close();
    }
  });

  test("says that a run was removed, and keeps what it had", async () => {
    const directory = join(scratch, "removed");
    plantRunning(directory, 8);
    const watch = new RunWatch(directory);
    const before = watch.look();
    renameSync(directory, join(scratch, "elsewhere"));
    const after = await news(watch, before);
    expect(after.state.phase).toBe("gone");
    expect(after.state.page).toEqual(before.state.page);
  });

  test("says what is wrong with a database, and reads one that was mended", async () => {
    const directory = join(scratch, "damaged");
    plantRunning(directory, 8);
    const watch = new RunWatch(directory);
    const whole = watch.look();
    expect(whole.failure).toBeNull();
    const path = databasePath(directory);
    renameSync(path, `${path}.kept`);
    for (const suffix of ["-wal", "-shm"]) rmSync(`${path}${suffix}`, { force: true });
    writeFileSync(path, "this is no database, though it is long enough to look like one".repeat(20));
    const damaged = await news(watch, whole);
    expect(damaged.failure?.code).toBe("store_corrupt");
    expect(damaged.state).toMatchObject({ phase: "failed" });
    expect(damaged.state.page).not.toBeNull();
    renameSync(`${path}.kept`, path);
    expect((await news(watch, damaged)).state.phase).toBe("running");
  });
});

/** What a server answers to one request, with whatever Host. */
function ask(server: LiveServer, path: string, headers: Record<string, string> = {}, method = "GET") {
  return new Promise<{ status: number | undefined; headers: Record<string, unknown>; body: string }>(
    (resolve, reject) => {
      const sent = request(new URL(path, server.url), { headers, method }, (response) => {
        let body = "";
        response.on("data", (chunk) => {
          body += chunk;
        });
        response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, body }));
      });
      sent.on("error", reject).end();
    },
  );
}

describe("the server", () => {
  const directory = join(scratch, "served");
  plantRunning(directory, 8);

  test("answers on loopback by its own names alone, reading only", async () => {
    await using server = await serveLive(new RunWatch(directory), 0);
    const { port } = new URL(server.url);
    expect(server.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/$/);
    for (const host of [
      "evil.example",
      `evil.example:${port}`,
      `127.0.0.1.evil.example:${port}`,
      "127.0.0.1",
    ]) {
      expect(await ask(server, "/state", { host })).toMatchObject({
        status: 403,
        body: expect.not.stringContaining("head"),
      });
    }
    expect((await ask(server, "/state", { host: `LOCALHOST:${port}` })).status).toBe(200);
    expect((await ask(server, "/state", {}, "POST")).status).toBe(405);
    for (const path of ["/../../etc/passwd", "/state/", "/results.sqlite"]) {
      expect((await ask(server, path)).status).toBe(404);
    }
  });

  test("sends a state once: the same one is not sent again", async () => {
    await using server = await serveLive(new RunWatch(directory), 0);
    const { status, headers, body } = await ask(server, "/state");
    expect({ status, control: headers["cache-control"] }).toEqual({ status: 200, control: "no-store" });
    expect(JSON.parse(body)).toMatchObject({ phase: "running" });
    const again = await ask(server, "/state", { "if-none-match": String(headers.etag) });
    expect(again).toMatchObject({ status: 304, body: "" });
  });

  test("two watch one run side by side; a port that is taken is refused", async () => {
    await using first = await serveLive(new RunWatch(directory), 0);
    await using second = await serveLive(new RunWatch(directory), 0);
    const states = [await ask(first, "/state"), await ask(second, "/state")];
    expect(states[0]?.body).toBe(states[1]?.body);
    const port = Number(new URL(first.url).port);
    await expect(serveLive(new RunWatch(directory), port)).rejects.toMatchObject({ code: "usage" });
  });
});

describe("sparkablate report --watch", () => {
  const MAIN = fileURLToPath(new URL("../../../src/cli/main.ts", import.meta.url));
  const watchCommand = (...args: string[]) =>
    execa(process.execPath, [MAIN, "report", "--watch", ...args], { reject: false, env: { NO_COLOR: "1" } });

  test.each(["SIGINT", "SIGTERM"] as const)("prints its address, and %s ends it", async (signal) => {
    const directory = join(scratch, `command-${signal}`);
    plantRunning(directory, 8);
    const running = watchCommand(directory);
    const url = await new Promise<string>((resolve) => {
      running.stdout?.once("data", (chunk) => resolve(String(chunk).trim()));
    });
    expect((await fetch(url)).status).toBe(200);
    running.kill(signal);
    expect(await running).toMatchObject({ exitCode: 0, stdout: url });
    await expect(fetch(url)).rejects.toThrow();
  });

  test("a database that is none, and options that do not fit, are refused", async () => {
    const directory = join(scratch, "none");
    plantRunning(directory, 8);
    for (const suffix of ["-wal", "-shm"]) rmSync(`${databasePath(directory)}${suffix}`, { force: true });
    writeFileSync(databasePath(directory), "no database".repeat(200));
    expect(await watchCommand(directory)).toMatchObject({ exitCode: 3, stdout: "" });
    const other = await watchCommand(directory, "--top", "3");
    expect(other).toMatchObject({ exitCode: 2, stdout: "" });
    expect(other.stderr).toContain("--top cannot be combined with --watch");
    expect((await watchCommand(directory, "--port", "70000")).exitCode).toBe(2);
  });
});

describe.skipIf(!hasBrowser)(inBrowser, () => {
  test("the page follows the run without being touched", {
    timeout: 90_000,
  }, async () => {
    const directory = join(scratch, "page");
    const server = await serveLive(new RunWatch(directory), 0);
    await using browser = await launchBrowser();
    await visit(browser, server.url, {
      width: 1200,
      offline: false,
      check: async (page) => {
        const status = page.locator("#live");
        const rows = page.locator("#ranking tbody tr");
        await status.filter({ hasText: "Waiting: there is no run" }).waitFor();
        plantRunning(directory, 8);
        await status.filter({ hasText: "Running: 48 of 192" }).waitFor();
        expect(await rows.count()).toBe(HEADS);
        expect(await page.locator("canvas").count()).toBe(2);
        const captions = page.locator("figcaption", { hasText: "8 blocks (of 32 planned)" });
        expect(await captions.count()).toBe(2);
        await page.getByRole("searchbox").fill("head[4]");
        const store = RunStore.open(directory);
        measureMore(store, 8);
        await status.filter({ hasText: "Running: 192 of 192" }).waitFor();
        // What the reader typed stays.
        expect(await rows.count()).toBe(1);
        // The charts are of all blocks now, and say so.
        expect(await page.locator("figcaption", { hasText: "32 blocks of " }).count()).toBe(2);
        expect(await captions.count()).toBe(0);
        store.finish("2026-11-25T01:00:00.000Z");
        store.close();
        await status.filter({ hasText: "Finished: 6 conditions" }).waitFor();
        await page.getByRole("button", { name: "Dark theme" }).click();
        expect(await page.title()).toContain("what each attention head is worth");
      },
    });
    await server[Symbol.asyncDispose]();
  });

  test("a page whose watcher has ended says so and keeps what it showed", { timeout: 60_000 }, async () => {
    const directory = join(scratch, "left");
    plantRunning(directory, 8);
    const server = await serveLive(new RunWatch(directory), 0);
    await using browser = await launchBrowser();
    const page = await browser.newPage();
    await page.goto(server.url);
    await page.locator("#live", { hasText: "Running" }).waitFor();
    await server[Symbol.asyncDispose]();
    await page.locator("#live", { hasText: "The watcher has ended" }).waitFor();
    expect(await page.locator("#ranking tbody tr").count()).toBe(HEADS);
  });
});
