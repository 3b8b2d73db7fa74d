import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { renderPage } from "../../../src/report/page.ts";
import { buildRows, type Row } from "../../../src/rows.ts";
import { condition, facts, head, sweep } from "../planted.ts";

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
  const page = renderPage(rows, about);

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
    const attacked = renderPage(
      buildRows(baseline, conditions, about.statistics),
      facts({ sweep: "custom", name: ATTACK, model: ATTACK, text: ATTACK, config: ATTACK }),
    );
    expect(attacked).not.toContain("<img");
    expect(attacked).not.toContain("<script>document");
  });
});

/** Debian's chromium; REQUIRE=browser turns its absence into a failure. */
const executablePath = ["chromium", "chromium-browser", "google-chrome"].flatMap((name) => {
  const { status, stdout } = spawnSync("which", [name], { encoding: "utf8" });
  return status === 0 ? [stdout.trim()] : [];
})[0];
const wanted = executablePath !== undefined || (process.env.REQUIRE ?? "").split(",").includes("browser");

describe.skipIf(!wanted)(`in a browser${wanted ? "" : " (skipped: chromium is not installed)"}`, () => {
  let browser: Browser;
  beforeAll(async () => {
    if (executablePath === undefined) throw new Error("REQUIRE=browser, but chromium is not installed");
    browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  }, 60_000);
  afterAll(async () => {
    await browser?.close();
    rmSync(directory, { recursive: true });
  });

  /** Opens a page from disk, without a network; anything the console complains of fails the test. */
  async function open(name: string, html: string, width: number, check: (page: Page) => Promise<void>) {
    const path = join(directory, `${name}.html`);
    writeFileSync(path, html);
    const context = await browser.newContext({
      offline: true,
      viewport: { width, height: 900 },
      colorScheme: "light",
    });
    const page = await context.newPage();
    const complaints: string[] = [];
    page.on("console", (message) => complaints.push(message.text()));
    page.on("pageerror", (error) => complaints.push(String(error)));
    await page.goto(`file://${path}`);
    await check(page);
    expect(complaints).toEqual([]);
    await context.close();
  }

  const first = (page: Page, column: number) =>
    page.locator(`#ranking tbody tr:first-child td:nth-child(${column})`).textContent();
  const ranked = [...rows.slice(1)].sort((a, b) => (b.delta_nll as number) - (a.delta_nll as number));

  test("sorts, filters and shows every digit", { timeout: 60_000 }, async () => {
    await open("table", renderPage(rows, about), 1200, async (page) => {
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
    await open("map", renderPage(rows, about), 1200, async (page) => {
      const canvas = page.locator("#chart-0");
      await canvas.focus();
      for (const key of ["ArrowRight", "ArrowRight", "ArrowDown"]) await page.keyboard.press(key);
      expect(await page.locator("#told-0").textContent()).toContain("L1.head[1].zero, Δ NLL");
      const picture = () => canvas.evaluate((element) => (element as HTMLCanvasElement).toDataURL());
      const before = await picture();
      await canvas.hover({ position: { x: 300, y: 120 } });
      const hovered = await picture();
      expect(hovered).not.toBe(before);
      await page.getByLabel("hide what is not distinguishable").check();
      expect(await picture()).not.toBe(before);
    });
  });

  test("dark theme, paper and a phone", { timeout: 60_000 }, async () => {
    await open("narrow", renderPage(rows, about), 390, async (page) => {
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(overflow).toBeLessThanOrEqual(0);
      const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const light = await background();
      await page.getByRole("button", { name: "Dark theme" }).click();
      expect(await background()).not.toBe(light);
      expect((await page.pdf()).length).toBeGreaterThan(10_000);
    });
  });

  test("a hostile config cannot run anything", { timeout: 60_000 }, async () => {
    const evil = condition(ATTACK, { kind: "mlp", layer: 0, mode: "zero", positions: "all" });
    const { baseline, conditions } = sweep([{ of: evil, mean: 1, sd: 0.1 }], 32);
    const html = renderPage(
      buildRows(baseline, conditions, about.statistics),
      facts({ sweep: "custom", name: ATTACK, model: ATTACK, text: ATTACK, config: ATTACK }),
    );
    await open("hostile", html, 1200, async (page) => {
      expect(await page.title()).toContain("what each component is worth");
      expect(await first(page, 3)).toBe(ATTACK);
    });
  });
});
