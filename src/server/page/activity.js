// What the server does now: slots, memory, rates. Asked once a second while somebody looks.

import { request } from "./api.js";
import { bytes, count, element, facts, time } from "./dom.js";

const EVERY = 1000;

/** A bar of parts `[class, value]` of a whole. */
function bar(label, whole, parts) {
  const share = (value) => (whole > 0 ? Math.min(100, (100 * value) / whole) : 0);
  const fills = parts.map(([name, value]) => {
    const fill = element("span", { class: name });
    fill.style.width = `${share(value)}%`;
    return fill;
  });
  return element("div", { class: "bar", role: "img", "aria-label": label }, fills);
}

function model(now, before, seconds) {
  const pages = `${count(now.kv_pages_used)} used, ${count(now.kv_pages_cached)} cached, ${count(now.kv_pages)} in all`;
  const slots = `${now.active} of ${now.slots}${now.waiting ? `, ${now.waiting} waiting` : ""}`;
  const rate = (key) => (before && seconds > 0 ? Math.max(0, now[key] - before[key]) / seconds : 0);
  return element("section", { class: "served" },
    element("h3", {}, now.name),
    bar(`Slots: ${slots}`, now.slots, [["used", now.active]]),
    facts([
      ["Slots", slots],
      ["Rate", `${rate("generated_tokens").toFixed(1)} tokens/s`],
    ]),
    bar(`Pages: ${pages}`, now.kv_pages, [["used", now.kv_pages_used], ["cached", now.kv_pages_cached]]),
    facts([
      ["Cache pages", pages],
      ["Memory", bytes(now.bytes)],
      ["Context", count(now.context)],
      ["Tokens made", count(now.generated_tokens)],
      ["Prompt tokens", `${count(now.prompt_tokens)} computed, ${count(now.prompt_tokens_cached)} cached`],
      ["Unloads", now.expires_in_seconds === null ? "never" : `in ${time(now.expires_in_seconds)}`],
    ]));
}

/** Shows the server's use in `body` while `fold` is open and the page is in sight. */
export class Activity {
  #timer;
  #round = 0;
  #before;

  constructor(fold, body) {
    this.fold = fold;
    this.body = body;
    fold.addEventListener("toggle", () => this.#restart());
    document.addEventListener("visibilitychange", () => this.#restart());
    this.#restart();
  }

  #restart() {
    clearTimeout(this.#timer);
    this.#round += 1;
    this.#ask(this.#round);
  }

  /** Asks, shows, and asks again after a while, until another round begins or nobody looks. */
  async #ask(round) {
    const looked = () => round === this.#round && this.fold.open && document.visibilityState === "visible";
    if (!looked()) return;
    try {
      const response = await request("/api/mdl/usage", { quiet: true, signal: AbortSignal.timeout(5 * EVERY) });
      const usage = await response.json();
      if (looked()) this.#show(usage);
    } catch (error) {
      this.#before = undefined;
      this.body.replaceChildren(element("p", { class: "error" }, `No answer: ${error.message}`));
    }
    if (looked()) this.#timer = setTimeout(() => this.#ask(round), EVERY);
  }

  #show(usage) {
    const before = this.#before;
    const seconds = before ? usage.uptime_seconds - before.uptime_seconds : 0;
    const earlier = (now) => before?.models.find((m) => m.name === now.name);
    this.body.replaceChildren(
      facts([
        ["State", usage.state],
        ["Up", time(usage.uptime_seconds)],
        ["Waiting", count(usage.requests_waiting)],
      ]),
      ...usage.models.map((now) => model(now, earlier(now), seconds)),
      ...(usage.models.length ? [] : [element("p", { class: "hint" }, "No model is loaded.")]));
    this.#before = usage;
  }
}
