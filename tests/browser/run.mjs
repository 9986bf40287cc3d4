// Drives the web UI in Debian's Chromium: every page light and dark, with and without JavaScript, at 1280 and 400 px.
//
//   node run.mjs BASE_URL SIGN_IN_LINK [--shots DIR]
//
// SIGN_IN_LINK is what `weighbridge demo` prints, or the set-up link of a first start. Needs some calls to look at. The
// last line is `N passed, N failed`.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const [base, link] = process.argv.slice(2);
const shots = process.argv.includes("--shots") ? process.argv[process.argv.indexOf("--shots") + 1] : null;
if (!base || !link) {
  console.error("usage: node run.mjs BASE_URL SIGN_IN_LINK [--shots DIR]");
  process.exit(2);
}
if (shots) mkdirSync(shots, { recursive: true });

const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];
const TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
let passed = 0;
let failed = 0;

function check(name, good, detail = "") {
  if (good) {
    passed += 1;
  } else {
    failed += 1;
    console.log(`FAILED ${name}${detail ? `\n       ${String(detail).slice(0, 1500)}` : ""}`);
  }
}

async function step(name, run) {
  try {
    const detail = await run();
    check(name, detail === undefined || detail === true, detail);
  } catch (error) {
    check(name, false, error.stack ?? error);
  }
}

/** Notes what a page must never do: complain, break its policy, or talk to another host. */
function watch(page) {
  const complaints = [];
  page.on("console", (m) => {
    // A page that answers 4xx on purpose is reported by the browser itself.
    if (m.type() === "error" && !/Failed to load resource.*status of 4/.test(m.text())) complaints.push(m.text());
  });
  page.on("pageerror", (e) => complaints.push(String(e)));
  page.on("request", (r) => {
    if (!r.url().startsWith(base) && !r.url().startsWith("data:")) complaints.push(`foreign request ${r.url()}`);
  });
  return complaints;
}

async function context(browser, state, options = {}) {
  return browser.newContext({ baseURL: base, storageState: state, viewport: { width: 1280, height: 900 }, ...options });
}

async function axeOn(page) {
  await page.evaluate(axe);
  const result = await page.evaluate((tags) => window.axe.run(document, { runOnly: tags }), TAGS);
  return result.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).slice(0, 3).join(" | ")}`);
}

async function signIn(browser) {
  const ctx = await browser.newContext({ baseURL: base });
  const page = await ctx.newPage();
  const complaints = watch(page);
  await step("signing in by the link", async () => {
    await page.goto(link);
    if (await page.locator('input[name="again"]').count()) {
      await page.fill('input[name="operator"]', "ada");
      await page.fill('input[name="password"]', "correct horse battery staple");
      await page.fill('input[name="again"]', "correct horse battery staple");
    }
    await page.click("main button.primary");
    await page.waitForURL((u) => u.pathname === "/");
    if ((await page.locator("h1").innerText()) !== "Overview") return "no overview after signing in";
  });
  await step("a used link is refused", async () => {
    const other = await (await browser.newContext()).newPage();
    const answer = await other.goto(link);
    return answer.status() === 403 ? undefined : `status ${answer.status()}`;
  });
  check("signing in raises no complaint", complaints.length === 0, complaints.join("\n"));
  const state = await ctx.storageState();
  await ctx.close();
  return state;
}

async function everyPage(browser, state, pages) {
  for (const javaScriptEnabled of [true, false]) {
    for (const width of [1280, 400]) {
      for (const theme of ["light", "dark"]) {
        const cookies = [...state.cookies, { name: "wb-theme", value: theme, domain: new URL(base).hostname, path: "/", expires: -1, httpOnly: true, secure: false, sameSite: "Lax" }];
        const ctx = await context(browser, { ...state, cookies }, {
          javaScriptEnabled, viewport: { width, height: 900 }, bypassCSP: false, hasTouch: width === 400,
        });
        for (const [name, path] of Object.entries(pages)) {
          const label = `${name}, ${width} px, ${theme}, JavaScript ${javaScriptEnabled ? "on" : "off"}`;
          const page = await ctx.newPage();
          const complaints = watch(page);
          await step(label, async () => {
            const answer = await page.goto(path, { waitUntil: "load" });
            const wanted = name === "not found" ? 404 : name === "bad field" ? 400 : 200;
            if (answer.status() !== wanted) return `status ${answer.status()}`;
            if (!javaScriptEnabled) return (await page.locator("h1").count()) === 1 ? undefined : "no single h1";
            const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
            if (overflow > 0) return `${overflow} px wider than the window`;
            if (complaints.length) return complaints.join("\n");
          });
          if (shots && javaScriptEnabled) {
            await page.screenshot({ path: join(shots, `${name.replaceAll(" ", "-")}-${width}-${theme}.png`), fullPage: true });
          }
          await page.close();
        }
        await ctx.close();
      }
    }
  }
}

async function accessible(browser, state, pages) {
  for (const theme of ["light", "dark"]) {
    for (const width of [1280, 400]) {
      const ctx = await context(browser, state, { bypassCSP: true, colorScheme: theme, viewport: { width, height: 900 } });
      for (const [name, path] of Object.entries(pages)) {
        const page = await ctx.newPage();
        await step(`axe: ${name}, ${width} px, ${theme}`, async () => {
          await page.goto(path);
          const violations = await axeOn(page);
          return violations.length ? violations.join("\n       ") : undefined;
        });
        await page.close();
      }
      await ctx.close();
    }
  }
}

/** From a figure to the signed record, by links alone. */
async function drillDown(browser, state, javaScriptEnabled) {
  const how = `JavaScript ${javaScriptEnabled ? "on" : "off"}`;
  const ctx = await context(browser, state, { javaScriptEnabled });
  const page = await ctx.newPage();
  const complaints = watch(page);
  await step(`from spend to a receipt in three clicks, ${how}`, async () => {
    await page.goto("/spend?range=30d");
    await page.locator('[aria-label="Spend table"] tbody th a').first().click();
    await page.waitForURL(/by=model.*service=|service=.*by=model/);
    await page.locator('[aria-label="Spend table"] tbody td.n a[href^="/calls"]').first().click();
    await page.waitForURL(/\/calls\?/);
    await page.locator('.region tbody th a[href^="/calls/"]').first().click();
    await page.waitForURL(/\/calls\/[0-9a-f-]{36}$/);
    const text = await page.locator("main").innerText();
    for (const word of ["Who", "Cost", "Decision", "Proof", "Leaf hash"]) if (!text.includes(word)) return `no ${word}`;
  });
  await step(`a filter is added, shown and removed, ${how}`, async () => {
    await page.goto("/spend?range=30d");
    await page.selectOption('select[name="add"]', "environment");
    await page.fill('input[name="value"]', "prod");
    await page.click('main form.filters button');
    await page.waitForURL(/environment=prod/);
    if (/add=|value=/.test(page.url())) return `untidy address ${page.url()}`;
    await page.locator(".chip", { hasText: "prod" }).click();
    await page.waitForURL((u) => !u.search.includes("environment"));
    await page.goBack();
    await page.waitForURL(/environment=prod/);
    if (!(await page.locator(".chip", { hasText: "prod" }).count())) return "no chip after Back";
  });
  await step(`colours are switched, ${how}`, async () => {
    await page.goto("/");
    await page.locator('button[name="theme"]').click();
    await page.waitForURL(/\/$/);
    return (await page.locator("html").getAttribute("data-theme")) === "light" || "not light";
  });
  check(`nothing was complained about on the way, ${how}`, complaints.length === 0, complaints.join("\n"));
  await ctx.close();
}

async function keyboard(browser, state) {
  const ctx = await context(browser, state);
  const page = await ctx.newPage();
  await step("the / key goes to the search box and g s to spend", async () => {
    await page.goto("/");
    await page.keyboard.press("/");
    if ((await page.evaluate(() => document.activeElement.id)) !== "jump") return "focus is elsewhere";
    await page.keyboard.press("g");
    if ((await page.inputValue("#jump")) !== "g") return "typing was taken for a shortcut";
    await page.keyboard.press("Escape");
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press("g");
    await page.keyboard.press("s");
    await page.waitForURL(/\/spend/);
  });
  await step("the first tab stop skips to the content", async () => {
    await page.goto("/");
    await page.keyboard.press("Tab");
    return (await page.evaluate(() => document.activeElement.className)) === "skip" || "it does not";
  });
  await ctx.close();
}

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", headless: true, args: FLAGS });
try {
  const state = await signIn(browser);
  const ctx = await context(browser, state);
  const page = await ctx.newPage();
  await page.goto("/calls?range=30d&outcome=completed");
  const receipt = await page.locator('.region tbody th a[href^="/calls/"]').first().getAttribute("href");
  await page.goto("/calls?range=30d&outcome=refused");
  const refused = page.locator('.region tbody th a[href^="/calls/"]').first();
  const refusal = (await refused.count()) ? await refused.getAttribute("href") : "/help/budget_exceeded";
  await ctx.close();
  const pages = {
    "overview": "/",
    "spend": "/spend?range=30d",
    "spend compared": "/spend?range=30d&by=business_unit,model&compare=prev&metric=calls",
    "spend of nobody": "/spend?service=nobody",
    "calls": "/calls",
    "receipt": receipt,
    "refusal": refusal,
    "budgets": "/budgets",
    "help": "/help",
    "help page": "/help/budget_exceeded",
    "profile": "/profile",
    "search": "/search?q=nothing-of-that-name",
    "not found": "/nothing-here",
    "bad field": "/spend?by=colour",
  };
  await everyPage(browser, state, pages);
  await accessible(browser, state, pages);
  await accessible(browser, undefined, { "sign-in": "/sign-in" });
  await drillDown(browser, state, true);
  await drillDown(browser, state, false);
  await keyboard(browser, state);
} catch (error) {
  check("the run itself", false, error.stack ?? error);
} finally {
  await browser.close();
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
