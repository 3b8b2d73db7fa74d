import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Row } from "../../../src/results/row.ts";
import { buildRows } from "../../../src/results/tabulate.ts";
import { hasBrowser, hoverText, inBrowser, launchBrowser, visit } from "../../fixtures/browser.ts";
import { condition, facts, head, pageText, sweep } from "../planted.ts";

const directory = mkdtempSync(join(tmpdir(), "page-"));
const ATTACK = `</script><img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`;
const effects = Array.from({ length: 12 }, (_, layer) =>
  Array.from({ length: 6 }, (_unused, index) => ({
    of: head(layer, index),
    mean: layer === 0 ? 0.5 + index / 10 : index === 5 ? 0.0001 : 0.01 * (layer - index),
    sd: 0.01,
  })),
).flat();
const planted = sweep(effects, 32);
const rows = buildRows(planted.baseline, planted.conditions, { correction: "bh", floor: null });
const about = facts({ sweep: "heads", planned_conditions: effects.length });

describe("the page's text", () => {
  const page = pageText(rows, about);

  test("loads nothing from anywhere", () => {
    expect(page).not.toMatch(/<(link|img|iframe|script[^>]*\ssrc)\b/i);
    expect(page).toContain("default-src 'none'");
    expect(page).not.toContain("sourceMappingURL");
  });

  test("says how the numbers were made, on what and with which versions", () => {
    const missing = [
      "tiny-llama",
      "northanger-abbey.txt",
      "32 blocks (8,160 predicted tokens)",
      "setting its output to zero",
      "paired t statistic",
      "Benjamini and Hochberg, 1995",
      "@software{sparkablate_0_1_0,",
      "name: tiny-llama",
      "2.13.0",
      "do not show redundancy",
    ].filter((part) => !page.includes(part));
    expect(missing).toEqual([]);
  });

  test("what a config says is text, never markup", () => {
    const evil = condition(ATTACK, { kind: "mlp", layer: 0, mode: "zero", positions: "all" });
    const { baseline, conditions } = sweep([{ of: evil, mean: 1, sd: 0.1 }], 32);
    const attacked = pageText(
      buildRows(baseline, conditions, about.statistics),
      facts({ sweep: "custom", name: ATTACK, model: ATTACK, text: ATTACK, config: ATTACK }),
    );
    expect(attacked).not.toContain("<img");
    expect(attacked).not.toContain("<script>document");
  });
});

describe.skipIf(!hasBrowser)(inBrowser, () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await launchBrowser();
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    rmSync(directory, { recursive: true });
  });

  /** Opens a page from disk, without a network. */
  async function open(name: string, html: string, width: number, check: (page: Page) => Promise<void>) {
    const path = join(directory, `${name}.html`);
    writeFileSync(path, html);
    await visit(browser, `file://${path}`, { width, check });
  }

  const first = (page: Page, column: number) =>
    page.locator(`#ranking tbody tr:first-child td:nth-child(${column})`).textContent();
  const ranked = [...rows.slice(1)].sort((a, b) => (b.delta_nll as number) - (a.delta_nll as number));

  test("sorts, filters and shows every digit", { timeout: 60_000 }, async () => {
    await open("table", pageText(rows, about), 1200, async (page) => {
      expect(await first(page, 3)).toBe(ranked[0]?.condition);
      const cell = page.locator("#ranking tbody tr:first-child td:nth-child(5)");
      expect(await cell.getAttribute("title")).toBe(String(ranked[0]?.delta_nll));
      const header = page.getByRole("button", { name: "Δ NLL" });
      await header.click();
      expect(await first(page, 3)).toBe((ranked.at(-1) as Row).condition);
      await header.press("Enter");
      expect(await first(page, 3)).toBe(ranked[0]?.condition);
      expect(await page.locator("th[aria-sort]").getAttribute("aria-sort")).toBe("descending");
      await page.getByRole("searchbox").fill("L3.head[2]");
      expect(await page.locator("#ranking tbody tr").count()).toBe(1);
      expect(await page.locator("#count").textContent()).toBe("1 of 72 conditions shown");
      await page.getByRole("searchbox").fill("");
      await page.getByLabel("only distinguishable").check();
      expect(await page.locator("#ranking tbody tr").count()).toBe(
        rows.filter((row) => row.distinguishable).length,
      );
    });
  });

  test("arrow keys read the heatmap, hovering shows the value, the mask hides", {
    timeout: 60_000,
  }, async () => {
    await open("map", pageText(rows, about), 1200, async (page) => {
      const canvas = page.locator("#chart-0");
      await canvas.focus();
      for (const key of ["ArrowRight", "ArrowRight", "ArrowDown"]) await page.keyboard.press(key);
      expect(await page.locator("#told-0").textContent()).toContain("L1.head[1].zero, Δ NLL");
      const picture = () => canvas.evaluate((element) => (element as HTMLCanvasElement).toDataURL());
      const before = await picture();
      // Cells stand in the order of the sweep: layer 3, head 2.
      const shown = await hoverText(page, 0, 3 * 6 + 2);
      const row = rows.find((one) => one.condition === "L3.head[2].zero") as Row;
      expect(shown.split("\n")[0]).toBe(row.condition);
      expect(shown).toContain(`Δ NLL +${row.delta_nll?.toFixed(4)}`);
      expect(await picture()).not.toBe(before);
      await page.getByLabel("hide what is not distinguishable").check();
      expect(await picture()).not.toBe(before);
    });
  });

  test("dark theme, paper and a phone", { timeout: 60_000 }, async () => {
    await open("narrow", pageText(rows, about), 390, async (page) => {
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow).toBeLessThanOrEqual(0);
      const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const light = await background();
      await page.getByRole("button", { name: "Dark theme" }).click();
      const dark = await background();
      expect(dark).not.toBe(light);
      expect((await page.pdf()).length).toBeGreaterThan(10_000);
      expect(await background()).toBe(dark);
      await page.emulateMedia({ media: "print" });
      expect(await page.getByRole("searchbox").isVisible()).toBe(false);
    });
  });

  test("10,000 conditions open and sort at once, since few of their rows are in the document", {
    timeout: 120_000,
  }, async () => {
    const many = sweep(
      Array.from({ length: 10_000 }, (_, index) => ({
        of: head(Math.floor(index / 100), index % 100),
        mean: Math.sin(index),
        sd: 0.5,
      })),
      16,
    );
    const all = buildRows(many.baseline, many.conditions, about.statistics);
    await open(
      "many",
      pageText(all, facts({ sweep: "heads", planned_conditions: 10_000 })),
      1200,
      async (page) => {
        const opened = await page.evaluate(() => performance.now());
        expect(await page.locator("#count").textContent()).toBe("250 of 10000 conditions shown");
        const sorting = await page.evaluate(() => {
          const buttons = [...document.querySelectorAll<HTMLButtonElement>("#ranking th button")];
          const began = performance.now();
          buttons.find((button) => button.textContent === "SE")?.click();
          // Reading a height makes the browser lay the table out.
          document.querySelector("#ranking")?.getBoundingClientRect();
          return performance.now() - began;
        });
        expect(await page.locator("#ranking tbody tr").count()).toBe(250);
        const least = Math.min(...all.slice(1).map((row) => row.se ?? Number.POSITIVE_INFINITY));
        expect(
          await page.locator("#ranking tbody tr:first-child td:nth-child(6)").getAttribute("title"),
        ).toBe(String(least));
        console.info(`10,000 conditions: open ${opened.toFixed(0)} ms, sorted ${sorting.toFixed(0)} ms`);
        expect(sorting).toBeLessThan(2_000);
      },
    );
  });

  test("a hostile config cannot run anything", { timeout: 60_000 }, async () => {
    const evil = condition(ATTACK, { kind: "mlp", layer: 0, mode: "zero", positions: "all" });
    const { baseline, conditions } = sweep([{ of: evil, mean: 1, sd: 0.1 }], 32);
    const html = pageText(
      buildRows(baseline, conditions, about.statistics),
      facts({ sweep: "custom", name: ATTACK, model: ATTACK, text: ATTACK, config: ATTACK }),
    );
    await open("hostile", html, 1200, async (page) => {
      expect(await page.title()).toContain("what each component is worth");
      expect(await first(page, 3)).toBe(ATTACK);
    });
  });
});
