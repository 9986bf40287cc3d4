// Drives the web UI in Debian's Chromium: every page light and dark, with and without JavaScript, at 1280 and 400 px.
//
//   node run.mjs BASE_URL SIGN_IN_LINK [--binary FILE] [--shots DIR]
//
// SIGN_IN_LINK is what `weighbridge demo` prints, or the set-up link of a first start. Needs some calls to look at. With
// a binary, a first start is gone through too, from the set-up link to the empty pages. The last line is
// `N passed, N failed`.
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const [base, link] = process.argv.slice(2);
const option = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : null);
const shots = option("--shots");
const binary = option("--binary");
if (!base || !link) {
  console.error("usage: node run.mjs BASE_URL SIGN_IN_LINK [--binary FILE] [--shots DIR]");
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
function watch(page, home = base) {
  const complaints = [];
  page.on("console", (m) => {
    // A page that answers 4xx on purpose is reported by the browser itself.
    if (m.type() === "error" && !/Failed to load resource.*status of 4/.test(m.text())) complaints.push(m.text());
  });
  page.on("pageerror", (e) => complaints.push(String(e)));
  page.on("request", (r) => {
    if (!r.url().startsWith(home) && !r.url().startsWith("data:")) complaints.push(`foreign request ${r.url()}`);
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
  await step("signing in by the link, which looking at does not use up", async () => {
    await page.goto(link);
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

/** Follows every link from the overview on; of addresses that differ in values alone, the first few. */
async function crawl(browser, state) {
  const ctx = await context(browser, state);
  const pattern = (url) => {
    const path = url.pathname.replace(/[0-9a-f-]{36}/, "ID");
    const keys = [...url.searchParams.keys()].sort();
    // Files are long; one of each format does for each list.
    return keys.includes("format") ? `${path}.${url.searchParams.get("format")}` : `${path}?${keys.join("&")}`;
  };
  const queue = [[new URL("/", base), "the start"]];
  const seen = new Set(["/"]);
  const taken = new Map();
  const broken = [];
  let followed = 0;
  while (queue.length && followed < 250) {
    const [url, from] = queue.shift();
    const answer = await ctx.request.get(url.href);
    followed += 1;
    if (answer.status() !== 200) broken.push(`${answer.status()} ${url.pathname}${url.search} on ${from}`);
    if (!(answer.headers()["content-type"] ?? "").startsWith("text/html")) continue;
    for (const [, href] of (await answer.text()).matchAll(/ href="([^"]*)"/g)) {
      const next = new URL(href.replaceAll("&amp;", "&").replaceAll("&#38;", "&"), url);
      next.hash = "";
      const key = next.pathname + next.search;
      if (next.origin !== new URL(base).origin) broken.push(`foreign link ${next.href} on ${url.pathname}`);
      const alike = taken.get(pattern(next)) ?? 0;
      if (seen.has(key) || alike >= (next.searchParams.has("format") ? 1 : 2)) continue;
      seen.add(key);
      taken.set(pattern(next), alike + 1);
      queue.push([next, url.pathname + url.search]);
    }
  }
  check(`every link leads to a page (${followed} followed)`, broken.length === 0 && followed > 60, broken.join("\n       "));
  await ctx.close();
}

/** Records and fields of a CSV file. */
function csv(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted !== undefined ? quoted.replaceAll('""', '"') : plain);
    if (end === "") break;
    if (end !== ",") rows.push([]);
  }
  return rows.filter((r) => r.length > 1 || r[0] !== "");
}

/** An amount in units of 10⁻¹⁵ USD. */
function units(text) {
  const [whole, fraction = ""] = text.split(".");
  return BigInt(whole + fraction.padEnd(15, "0"));
}

/** What a page says of all its rows is what its file holds. Yesterday stands still while calls go on. */
async function filesAgree(browser, state) {
  const ctx = await context(browser, state, { javaScriptEnabled: false });
  const page = await ctx.newPage();
  const number = (text) => Number(text.replace(/[^0-9]/g, ""));
  const shown = async (path) => {
    await page.goto(path);
    const text = await page.locator(".pager span").first().innerText();
    const [, some, all] = text.match(/Showing ([^a-z]+) of ([^a-z]+) (?:calls|rows)/);
    return { some: number(some), all: number(all), rows: await page.locator("section:has(.pager) .region tbody tr").count() };
  };
  const file = async () => {
    const href = await page.locator('.exports a[href*="format=csv"]').getAttribute("href");
    return csv(await (await ctx.request.get(new URL(href, base).href)).text());
  };
  let total = 0n;
  for (const filter of ["", "&outcome=completed", "&environment=!prod"]) {
    await step(`calls${filter}: the file has as many rows as the page says, and their sum is the spend`, async () => {
      const page1 = await shown(`/calls?range=yesterday${filter}`);
      if (page1.some !== page1.rows) return `${page1.rows} rows, said to be ${page1.some}`;
      const [head, ...rows] = await file();
      if (rows.length !== page1.all) return `${rows.length} in the file, ${page1.all} on the page`;
      const column = head.findIndex((name) => /^cost(_usd)?$/.test(name));
      if (column < 0) return `no cost among ${head}`;
      const sum = rows.reduce((n, r) => n + (r[column] ? units(r[column]) : 0n), 0n);
      await shown(`/spend?range=yesterday${filter}`);
      const exact = units(await page.locator('[aria-label="Spend table"] tfoot data').first().getAttribute("value"));
      if (sum !== exact) return `the file adds up to ${sum}, spend to ${exact}`;
      if (filter === "") total = exact;
    });
  }
  for (const by of ["service", "model", "owner", "outcome", "business_unit,environment"]) {
    await step(`spend by ${by}: rows of the file, of the page, and the total agree`, async () => {
      const said = await shown(`/spend?range=yesterday&by=${by}`);
      if (said.some !== said.rows) return `${said.rows} rows, said to be ${said.some}`;
      const exact = units(await page.locator('[aria-label="Spend table"] tfoot data').first().getAttribute("value"));
      if (exact !== total) return `total ${exact}, of all calls ${total}`;
      const [head, ...rows] = await file();
      if (rows.length !== said.all) return `${rows.length} in the file, ${said.all} on the page`;
      const column = head.findIndex((name) => /^cost(_usd)?$/.test(name));
      const sum = rows.reduce((n, r) => n + (r[column] ? units(r[column]) : 0n), 0n);
      if (sum !== exact) return `the file adds up to ${sum}, the page to ${exact}`;
    });
  }
  await step("asking twice gives the same answer, and looking changes nothing", async () => {
    const text = async (path) => {
      await page.goto(path);
      return page.locator("#view table").allInnerTexts();
    };
    for (const path of ["/spend?range=yesterday", "/calls?range=yesterday", "/help"]) {
      if (JSON.stringify(await text(path)) !== JSON.stringify(await text(path))) return `${path} differs`;
    }
    for (const path of ["/sign-out", "/theme", "/profile/sessions/end"]) {
      const answer = await ctx.request.get(path);
      if (answer.status() !== 405) return `GET ${path} answers ${answer.status()}`;
    }
    const answer = await page.goto("/profile");
    return answer.status() === 200 && page.url().endsWith("/profile") ? undefined : "signed out by looking";
  });
  await ctx.close();
}

/** Spend, budgets and a receipt on paper: black on white, without what cannot be clicked there. */
async function prints(browser, state, pages) {
  const cookies = [...state.cookies, { name: "wb-theme", value: "dark", domain: new URL(base).hostname, path: "/", expires: -1, httpOnly: true, secure: false, sameSite: "Lax" }];
  const ctx = await context(browser, { ...state, cookies });
  const page = await ctx.newPage();
  for (const [name, path] of Object.entries(pages)) {
    await step(`print: ${name}`, async () => {
      await page.goto(path);
      await page.emulateMedia({ media: "print" });
      const look = await page.evaluate(() => {
        const seen = (selector) => [...document.querySelectorAll(selector)].some((e) => e.checkVisibility());
        return {
          controls: seen("nav") || seen("form.filters") || seen(".exports"),
          address: document.querySelector(".printed").innerText,
          paper: getComputedStyle(document.body).backgroundColor,
          ink: getComputedStyle(document.querySelector("main td, main p")).color,
        };
      });
      if (look.controls) return "shows what cannot be used on paper";
      if (!path.startsWith(look.address.split("?")[0]) || look.address === "") return `address ${look.address}`;
      if (look.paper !== "rgb(255, 255, 255)") return `paper ${look.paper}`;
      if (look.ink.match(/[0-9]+/g).slice(0, 3).some((c) => Number(c) > 110)) return `ink ${look.ink}`;
      const pdf = await page.pdf(shots ? { path: join(shots, `${name}.pdf`), format: "A4" } : { format: "A4" });
      await page.emulateMedia({ media: null });
      return pdf.length > 5_000 || `${pdf.length} bytes of PDF`;
    });
  }
  await ctx.close();
}

/** A first start: from the set-up link to a password, and what the pages say before the first call. */
async function firstStart(browser) {
  const folder = mkdtempSync(join(tmpdir(), "weighbridge-first-"));
  const server = spawn(binary, ["serve", "--data", join(folder, "data"), "--listen", "127.0.0.1:0", "--web-listen", "127.0.0.1:0"], {
    cwd: folder, stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = new Promise((resolve) => server.once("exit", resolve));
  const said = {};
  try {
    const lines = createInterface({ input: server.stdout });
    const timer = setTimeout(() => server.kill("SIGKILL"), 120_000);
    for await (const line of lines) {
      const found = line.match(/^(gateway|web|set up) +(http[^ ]+)/);
      if (found) said[found[1]] = found[2];
      if (said["set up"]) break;
    }
    clearTimeout(timer);
    const home = said.web;
    const ctx = await browser.newContext({ baseURL: home, viewport: { width: 1280, height: 900 }, bypassCSP: true });
    const page = await ctx.newPage();
    const complaints = watch(page, home);
    const password = "three plain words and one";
    const shot = (name) => (shots ? page.screenshot({ path: join(shots, `${name}.png`), fullPage: true }) : undefined);
    await step("first start: without an operator the sign-in page says where the set-up link is", async () => {
      await page.goto("/");
      await page.waitForURL(/\/sign-in/);
      if (!(await page.locator("main").innerText()).includes("set-up link")) return "it does not";
      const violations = await axeOn(page);
      if (violations.length) return violations.join("\n       ");
    });
    await step("first start: passwords that differ are refused, equal ones open the overview", async () => {
      await page.goto(said["set up"]);
      await shot("set-up");
      const violations = await axeOn(page);
      if (violations.length) return violations.join("\n       ");
      const fill = async (again) => {
        await page.fill('input[name="operator"]', "ada");
        await page.fill('input[name="password"]', password);
        await page.fill('input[name="again"]', again);
        await page.click("main button.primary");
      };
      await fill(`${password}!`);
      await page.locator('[role="alert"]').waitFor();
      await fill(password);
      await page.waitForURL((u) => u.pathname === "/");
    });
    for (const path of ["/", "/spend", "/calls", "/budgets", "/alerts/channels", "/catalogue", "/keys", "/providers"]) {
      await step(`first start: ${path} says why it is empty and what to do next`, async () => {
        await page.goto(path);
        await shot(`empty-${path.slice(1).replaceAll("/", "-") || "overview"}`);
        const snippet = await page.locator("main pre").first().innerText();
        const wanted = { "/alerts/channels": "[[notify]]", "/budgets": "[[budget]]", "/catalogue": "[[service]]", "/keys": "key create", "/providers": "[[provider]]" };
        if (!snippet.includes(wanted[path] ?? said.gateway)) return snippet;
        const violations = await axeOn(page);
        if (violations.length) return violations.join("\n       ");
      });
    }
    await step("first start: the set-up link is used up", async () => {
      const other = await browser.newContext();
      const answer = await (await other.newPage()).goto(said["set up"]);
      await other.close();
      return answer.status() >= 400 || `status ${answer.status()}`;
    });
    await step("first start: signed out, a wrong password is refused and the right one leads back", async () => {
      await page.locator("footer button", { hasText: "Sign out" }).click();
      await page.waitForURL(/\/sign-in/);
      await page.goto("/calls?range=30d");
      await page.fill('input[name="operator"]', "ada");
      await page.fill('input[name="password"]', "not the password");
      await page.click("main button.primary");
      await page.locator('[role="alert"]').waitFor();
      await shot("sign-in-refused");
      // After a failure the account waits for a second, and for longer each time.
      for (let tries = 0; tries < 5 && new URL(page.url()).pathname === "/sign-in"; tries += 1) {
        const wait = (await page.locator('[role="alert"]').innerText()).match(/again in ([0-9]+) s/);
        await page.waitForTimeout(wait ? Number(wait[1]) * 1000 : 0);
        await page.fill('input[name="password"]', password);
        await Promise.all([page.waitForNavigation(), page.click("main button.primary")]);
      }
      if (!page.url().endsWith("/calls?range=30d")) return `at ${page.url()}`;
    });
    check("first start: nothing was complained about", complaints.length === 0, complaints.join("\n"));
    await ctx.close();
  } finally {
    server.kill("SIGINT");
    await ended;
    rmSync(folder, { recursive: true, force: true });
  }
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
  await page.goto("/budgets");
  const budget = await page.locator('main a[href^="/budgets/"]:not([href="/budgets/new"])').first().getAttribute("href");
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
    "budget": budget,
    "new budget": "/budgets/new",
    "in flight": "/calls/running",
    "emergency": "/emergency",
    "policies": "/policies",
    "policy tried out": "/policies/simulate",
    "new policy": "/policies/new",
    "alerts": "/alerts",
    "alerts of nothing": "/alerts?budget=nothing-of-that-name",
    "channels": "/alerts/channels",
    "services": "/catalogue",
    "keys": "/keys",
    "providers": "/providers",
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
  await crawl(browser, state);
  await filesAgree(browser, state);
  await prints(browser, state, { spend: "/spend?range=30d", "in flight": "/calls/running", emergency: "/emergency", budgets: "/budgets", receipt });
  if (binary) await firstStart(browser);
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
