import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { Client } from "../../../src/link/client.ts";
import type { LoadedModel } from "../../../src/protocol/messages.ts";
import { readText } from "../../../src/run/inputs.ts";
import { bosNotices, bosOf, tokenize } from "../../../src/run/texts.ts";
import { scratch } from "../../fixtures/harness.ts";
import { listen } from "../../fixtures/router.ts";

const model = (bos_token_id: number | null, adds_bos: boolean): LoadedModel =>
  ({ bos_token_id, adds_bos }) as LoadedModel;

describe("BOS", () => {
  it.each([
    ["auto", 7, true, 7],
    ["auto", 7, false, null],
    ["auto", null, false, null],
    [true, 7, false, 7],
    [false, 7, true, null],
  ] as const)("add_bos %s, token %s, added %s: %s", (add_bos, token, adds, bos) => {
    expect(bosOf(add_bos, model(token, adds))).toBe(bos);
  });

  it("that the tokenizer knows and leaves out is told, where nobody has chosen", () => {
    expect(bosNotices("auto", model(7, false))).toEqual([
      expect.stringMatching(/BOS token \(id 7\).*eval\.add_bos: true/),
    ]);
    for (const [add_bos, of] of [
      ["auto", model(7, true)],
      ["auto", model(null, false)],
      [true, model(7, false)],
      [false, model(7, false)],
    ] as const)
      expect(bosNotices(add_bos, of)).toEqual([]);
  });
});

it("a text is sent without its mark, and its line ends are counted", async () => {
  const path = join(scratch(), "windows.txt");
  writeFileSync(path, "\ufeffone\r\ntwo\r\n\rthree\n");
  let sent = "";
  const address = await listen(async ({ payload, reply }) => {
    sent = payload.toString();
    await reply({ tokens: 1, truncated: false, notices: ["the worker's"] }, Buffer.alloc(4));
  });
  const client = new Client(address, new Promise(() => undefined));
  onTestFinished(() => client.close());
  await client.hello("a run");
  const { name, ids, notices } = await tokenize(client, path, readText(path), () => undefined);
  expect(sent).toBe("one\r\ntwo\r\n\rthree\n");
  expect([name, ...ids]).toEqual(["windows.txt", 0]);
  expect(notices).toEqual([expect.stringMatching(/^windows\.txt: 2 lines end with CR LF/), "the worker's"]);
});

it("a file that has gone since the config was read is missing, not our bug", () => {
  expect(() => readText("/none.txt")).toThrow("/none.txt: the text cannot be read: there is no such file");
});
