// Uses the page as a person does, in a headless Chromium that can reach nothing but the server.
//
//     node tests/page/browse.mjs URL URL_WITH_KEY KEY DIRECTORY
//
// Screenshots go to DIRECTORY. MDL_CHROMIUM names the browser.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(new URL("../clients/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [url, lockedUrl, key, directory] = process.argv.slice(2);
mkdirSync(directory, { recursive: true });

const browser = await chromium.launch({
  executablePath: process.env.MDL_CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
  ],
});

/** A page with a record of what it asked for and complained about. */
async function open(base, { colorScheme = "light", viewport = { width: 1280, height: 800 } } = {}) {
  const context = await browser.newContext({ baseURL: base, colorScheme, viewport });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  const record = { page, base, errors: [], requests: [] };
  page.on("console", (m) => m.type() === "error" && record.errors.push(m.text()));
  page.on("pageerror", (e) => record.errors.push(String(e)));
  page.on("request", (r) => record.requests.push(r.url()));
  return record;
}

/** Nothing was asked of another origin, and nothing was complained about. */
function clean({ base, errors, requests }) {
  assert.deepEqual(errors, []);
  assert.ok(requests.length > 0);
  for (const asked of requests) assert.equal(new URL(asked).origin, new URL(base).origin, asked);
}

const focused = (page) => page.evaluate(() => document.activeElement.id || document.activeElement.parentElement?.id);

/** Presses Tab (or Shift+Tab) until the element with this id, or its summary, has the focus. */
async function tabTo(page, id, keys = "Tab") {
  for (let i = 0; i < 40; i += 1) {
    if ((await focused(page)) === id) return;
    await page.keyboard.press(keys);
  }
  assert.fail(`Tab does not lead to #${id}`);
}

const shot = (page, name) => page.screenshot({ path: path.join(directory, `${name}.png`) });
const letters = (text) => text.replace(/[^\p{L}\p{N}]+/gu, "");

async function ask(body) {
  const response = await fetch(new URL("/api/chat", url), { method: "POST", body: JSON.stringify(body) });
  assert.equal(response.status, 200, await response.clone().text());
  return response.json();
}

async function usage() {
  return (await fetch(new URL("/api/mdl/usage", url))).json();
}

async function waitFor(what, condition) {
  const end = Date.now() + 10_000;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `not in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const steps = {
  async "a person chats with the keyboard alone"() {
    const record = await open(url);
    const { page } = record;
    await page.goto("/");
    await page.waitForSelector("#model:enabled option", { state: "attached" });
    assert.equal(await focused(page), "message");
    await tabTo(page, "temperature");
    await page.keyboard.type("0");
    await tabTo(page, "num_predict");
    await page.keyboard.type("60");
    await tabTo(page, "message", "Shift+Tab");
    await page.keyboard.type("Emma was");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("very happy.");
    assert.equal(await page.inputValue("#message"), "Emma was\nvery happy.");
    assert.equal(await page.locator("article").count(), 0);

    // The answer grows before the eyes of its reader, whose network is slow: the model is not.
    const network = await page.context().newCDPSession(page);
    const slow = { offline: false, latency: 0, uploadThroughput: -1 };
    await network.send("Network.emulateNetworkConditions", { ...slow, downloadThroughput: 6000 });
    await page.evaluate(() => {
      window.lengths = new Set();
      new MutationObserver(() => {
        window.lengths.add(document.querySelector(".assistant .text:not(.thinking .text)")?.textContent.length ?? 0);
      }).observe(document.getElementById("log"), { subtree: true, childList: true, characterData: true });
    });
    await page.keyboard.press("Enter");
    await page.waitForSelector("#stop:visible");
    await page.waitForSelector("#log[aria-busy=false]");
    const lengths = await page.evaluate(() => [...window.lengths].filter((n) => n > 0));
    assert.ok(lengths.length >= 3, `the answer came in ${lengths.length} pieces`);
    assert.equal(await page.locator(".error").count(), 0);
    await network.send("Network.emulateNetworkConditions", { ...slow, downloadThroughput: -1 });

    // What is shown is what the API says.
    const model = await page.inputValue("#model");
    const messages = [{ role: "user", content: "Emma was\nvery happy." }];
    const options = { temperature: 0, num_predict: 60 };
    const told = await ask({ model, messages, options, stream: false });
    assert.ok(told.message.content.length > 20);
    const shown = await page.textContent("article.assistant > .text");
    assert.equal(letters(shown), letters(told.message.content));
    const facts = await page.textContent("article.assistant .facts");
    assert.match(facts, new RegExp(`^${told.eval_count} tokens · [0-9.]+ tokens/s · prompt [1-9][0-9]* tokens`));
    assert.equal(await focused(page), "message");

    // The next question goes with the conversation before it.
    await page.keyboard.type("And her sister?");
    const sent = page.waitForRequest("**/api/chat");
    await page.keyboard.press("Enter");
    const asked = (await sent).postDataJSON();
    assert.deepEqual(asked.messages.map((m) => m.role), ["user", "assistant", "user"]);
    assert.equal(asked.messages[1].content, told.message.content);
    await page.waitForSelector("#log[aria-busy=false]");

    await tabTo(page, "card");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#card-body table");
    const card = await page.textContent("#card-body");
    for (const word of ["llama", "Q8_0", "F32", "Blocks", "completion"]) assert.ok(card.includes(word), `${word}: ${card}`);
    await tabTo(page, "activity");
    await page.keyboard.press("Enter");
    await page.waitForSelector(".served .bar");
    assert.ok((await page.textContent("#activity-body")).includes(model));

    assert.deepEqual(await page.evaluate(() => [...document.querySelectorAll("input, select, textarea")]
      .filter((field) => field.labels.length === 0).map((field) => field.id)), []);
    await shot(page, "chat-light");
    await page.emulateMedia({ colorScheme: "dark" });
    await shot(page, "chat-dark");
    await page.setViewportSize({ width: 390, height: 780 });
    await shot(page, "chat-narrow");
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
    clean(record);
  },

  async "Esc stops the answer and the server's work"() {
    const record = await open(url);
    const { page } = record;
    await page.goto("/");
    await page.waitForSelector("#model:enabled option", { state: "attached" });
    await page.fill("#num_predict", "100000");
    let stopped = false;
    // The model may come to an end by itself before that.
    for (let seed = 1; seed <= 8 && !stopped; seed += 1) {
      await page.fill("#seed", String(seed));
      await page.fill("#message", "Tell me a very long story.");
      await page.press("#message", "Enter");
      await page.waitForFunction((n) => document.querySelectorAll(".assistant")[n - 1]?.querySelector(":scope > .text").textContent, seed);
      await page.keyboard.press("Escape");
      await page.waitForSelector("#log[aria-busy=false]");
      stopped = (await page.locator(".assistant .facts").last().textContent()) === "stopped";
    }
    assert.ok(stopped, "no answer was long enough to be stopped");
    assert.equal(await focused(page), "message");
    assert.ok(await page.isVisible("#send"));
    await waitFor("the work ends", async () => (await usage()).models.every((m) => m.active === 0 && m.waiting === 0));
    await page.click("#clear");
    assert.equal(await page.locator("article").count(), 0);
    clean(record);
  },

  async "the server is asked for its use only while somebody looks"() {
    const record = await open(url);
    const { page, requests } = record;
    const asked = () => requests.filter((r) => r.endsWith("/api/mdl/usage")).length;
    await page.goto("/");
    await page.waitForSelector("#model:enabled option", { state: "attached" });
    await page.waitForTimeout(1200);
    assert.equal(asked(), 0);
    await page.click("#activity > summary");
    await waitFor("three looks", async () => asked() >= 3);
    await page.click("#activity > summary");
    await page.waitForTimeout(100);
    const before = asked();
    await page.waitForTimeout(1500);
    assert.equal(asked(), before);
    clean(record);
  },

  async "an error of the server is shown in its words"() {
    const { page, errors } = await open(url);
    await page.goto("/");
    await page.waitForSelector("#model:enabled option", { state: "attached" });
    await page.evaluate(() => {
      document.querySelector("#model option:checked").value = "no-such-model";
    });
    await page.fill("#message", "Hello");
    await page.press("#message", "Enter");
    const alert = page.locator("[role=alert]");
    await alert.waitFor();
    assert.equal(await alert.textContent(), "model 'no-such-model' not found");
    assert.ok(await page.isVisible("#send"));
    assert.ok(errors.every((e) => e.includes("404")), errors.join());
  },

  async "the text of a model stays text"() {
    const record = await open(url);
    const { page } = record;
    await page.goto("/");
    const hostile = [
      "<img src=x onerror=alert(1)> <script>alert(1)</script> **bold** and *italic* and `<b>code</b>`",
      "", "# Head", "- one", "- two", "  more of two", "1. first", "", "> said", "",
      "```js", "let a = \"<i>\";", "", "```", "[link](javascript:alert(1)) 2 * 3 * 4 snake_case_name", "```", "open",
    ].join("\n");
    const shown = await page.evaluate(async (text) => {
      const { Markdown } = await import("/page/markdown.js");
      const whole = document.createElement("div");
      new Markdown(whole).show(text);
      // Shown as it grows, a text ends up the same as at once.
      const grown = document.createElement("div");
      const markdown = new Markdown(grown);
      for (let i = 1; i <= text.length; i += 1) markdown.show(text.slice(0, i));
      return { html: whole.innerHTML, grown: grown.innerHTML };
    }, hostile);
    assert.equal(shown.grown, shown.html);
    assert.equal(shown.html, [
      "<p>&lt;img src=x onerror=alert(1)&gt; &lt;script&gt;alert(1)&lt;/script&gt; <strong>bold</strong> and <em>italic</em>",
      " and <code>&lt;b&gt;code&lt;/b&gt;</code></p><h3>Head</h3><ul><li>one</li><li>two\nmore of two</li></ul>",
      "<ol start=\"1\"><li>first</li></ol><blockquote>said</blockquote>",
      "<pre tabindex=\"0\" data-language=\"js\"><code>let a = \"&lt;i&gt;\";\n</code></pre>",
      "<p>[link](javascript:alert(1)) 2 * 3 * 4 snake_case_name</p><pre tabindex=\"0\"><code>open</code></pre>",
    ].join(""));
    // Nested and unclosed marks cost little.
    const took = await page.evaluate(async () => {
      const { blocks, Markdown } = await import("/page/markdown.js");
      const texts = ["*".repeat(50_000), "`".repeat(50_000), "> ".repeat(25_000), "- ".repeat(25_000), "**a ".repeat(20_000), "#".repeat(50_000)];
      const start = performance.now();
      for (const text of texts) new Markdown(document.createElement("div")).show(text);
      return { took: performance.now() - start, blocks: blocks("a\n\n".repeat(1000)).length };
    });
    assert.equal(took.blocks, 1000);
    assert.ok(took.took < 2000, `${took.took} ms`);
    clean(record);

    // And if it were more than text, it could do nothing.
    const blocked = await page.evaluate(async () => {
      const seen = [];
      document.addEventListener("securitypolicyviolation", (e) => seen.push(e.effectiveDirective));
      const script = document.createElement("script");
      script.textContent = "window.ran = true";
      document.body.append(script);
      const image = document.createElement("img");
      image.src = "https://elsewhere.example/x.png";
      document.body.append(image);
      await fetch("https://elsewhere.example/").catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 100));
      return { ran: window.ran, seen: seen.sort() };
    });
    assert.equal(blocked.ran, undefined);
    assert.deepEqual(blocked.seen, ["connect-src", "img-src", "script-src-elem"]);
  },

  async "a server that wants a key is given one"() {
    const { page, errors } = await open(lockedUrl);
    await page.goto("/");
    for (const attempt of ["0000000000000000", key]) {
      await page.waitForSelector("dialog[open] #key:focus");
      await page.keyboard.type(attempt);
      if (attempt === key) await shot(page, "key");
      await page.keyboard.press("Enter");
      await page.waitForSelector("#model:enabled option, dialog[open] form:has-text('not known')", { state: "attached" });
    }
    await page.waitForSelector("#model:enabled option", { state: "attached" });
    await page.reload();
    await page.waitForSelector("#model:enabled option", { state: "attached" });
    assert.equal(await page.locator("dialog").count(), 0);
    assert.equal(await page.evaluate(() => JSON.stringify(localStorage)), "{}");
    assert.ok(errors.every((e) => e.includes("401")), errors.join());
  },

  async "the reference shows every operation"() {
    const record = await open(url, { colorScheme: "dark" });
    const { page } = record;
    const api = await (await fetch(new URL("/openapi.json", url))).json();
    const operations = Object.values(api.paths).flatMap((item) => Object.keys(item));
    await page.goto("/reference");
    await page.waitForSelector(".operation");
    assert.equal(await page.locator(".operation").count(), operations.length);
    assert.ok(operations.length > 10, `${operations.length} operations`);
    for (const fold of await page.locator(".operation > summary").all()) await fold.press("Enter");
    // Every fold of a schema opens; those below it are drawn then.
    for (let depth = 0; depth < 3; depth += 1) {
      await page.evaluate(() => document.querySelectorAll(".schema details:not([open])").forEach((d) => (d.open = true)));
      await page.waitForTimeout(100);
    }
    assert.equal(await page.locator(".operation pre").count(), operations.length);
    assert.ok(!(await page.textContent("#operations")).includes("[object"));
    await page.goto("/reference#post-api-chat");
    await page.waitForSelector("#post-api-chat[open] pre");
    const curl = await page.textContent("#post-api-chat pre");
    assert.ok(curl.startsWith(`curl -X POST ${url.replace(/\/$/, "")}/api/chat`), curl);
    await shot(page, "reference-dark");
    await page.emulateMedia({ colorScheme: "light" });
    await shot(page, "reference-light");
    await page.fill("#filter", "/api/ch");
    assert.equal(await page.locator(".operation:visible").count(), 1);
    clean(record);
  },
};

const only = process.env.MDL_PAGE_STEP;
let failed = 0;
for (const [name, step] of Object.entries(steps)) {
  if (only && !name.includes(only)) continue;
  try {
    await step();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.stack}`);
    for (const context of browser.contexts()) {
      for (const page of context.pages()) await shot(page, `failed-${failed}`).catch(() => {});
    }
  }
  await Promise.all(browser.contexts().map((context) => context.close()));
}
await browser.close();
process.exitCode = failed ? 1 : 0;
