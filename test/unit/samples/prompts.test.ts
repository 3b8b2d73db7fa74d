import { expect, it } from "vitest";
import { dateNotices, requireUnicode, templateDay } from "../../../src/samples/prompts.ts";

it("a chat template's day is the one that was given, or today", () => {
  expect(templateDay({})).toBeNull();
  expect(templateDay({ chat_template: true, template_date: "2024-02-29" })).toBe("2024-02-29");
  const now = new Date();
  const local = [now.getFullYear(), now.getMonth() + 1, now.getDate()];
  expect(templateDay({ chat_template: true })?.split("-").map(Number)).toEqual(local);
});

it.each([
  "2026-02-29",
  "2026-13-01",
  "2026-1-1",
  "today",
  "",
  "2026-11-29T10:00",
  "0000-01-01",
  "2026-00-10",
])("%j is no day", (template_date) => {
  expect(() => templateDay({ chat_template: true, template_date })).toThrow(
    /allowed: a day, like 2026-11-29/,
  );
});

it("a day without a chat template is refused, not ignored", () => {
  expect(() => templateDay({ template_date: "2026-11-29" })).toThrow(/needs a chat template/);
});

it("a date that is written is told, but not to whoever gave it", () => {
  expect(dateNotices({}, null)).toEqual([]);
  expect(dateNotices({}, "2026-11-29")).toEqual([expect.stringContaining("--template-date 2026-11-29")]);
  expect(dateNotices({ template_date: "2026-11-29" }, "2026-11-29")).toEqual([]);
});

it("half a surrogate pair is no text", () => {
  expect(() => requireUnicode(["a", "🙂"], "prompt")).not.toThrow();
  expect(() => requireUnicode(["a", "🙂"[0] as string], "prompt")).toThrow(
    "prompt 2 holds half a surrogate pair",
  );
});
