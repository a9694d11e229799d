// The conversation: what was said, and the answer that is coming.

import { lines, request } from "./api.js";
import { count, element, time } from "./dom.js";
import { Markdown } from "./markdown.js";

/** Nanoseconds of a second. */
const SECOND = 1e9;

/** The counts and rates of an answer's last line, for a person. */
export function summary(last) {
  const rate = (tokens, nanoseconds) => `${(tokens / (nanoseconds / SECOND)).toFixed(1)} tokens/s`;
  const parts = [`${count(last.eval_count ?? 0)} tokens`];
  if (last.eval_count && last.eval_duration) parts.push(rate(last.eval_count, last.eval_duration));
  if (last.prompt_eval_count !== undefined) parts.push(`prompt ${count(last.prompt_eval_count)} tokens`);
  if (last.total_duration) parts.push(time(last.total_duration / SECOND));
  if (last.done_reason === "length") parts.push("cut at the limit");
  return parts.join(" · ");
}

/** An answer on the page. */
class Answer {
  content = "";
  thinking = "";
  calls = [];
  #drawn = 0;

  constructor(model) {
    this.text = element("div", { class: "text" });
    this.thoughts = element("div", { class: "text" });
    this.thinkingFold = element("details", { class: "thinking", open: true, hidden: true },
      element("summary", {}, "Thinking"), this.thoughts);
    this.callList = element("div", { class: "calls" });
    this.facts = element("p", { class: "facts" });
    this.node = element("article", { class: "assistant", "aria-busy": "true" },
      element("h2", {}, model), this.thinkingFold, this.text, this.callList, this.facts);
    this.markdown = new Markdown(this.text);
    this.thoughtMarkdown = new Markdown(this.thoughts);
  }

  add(message) {
    this.content += message.content ?? "";
    this.thinking += message.thinking ?? "";
    for (const call of message.tool_calls ?? []) {
      this.calls.push(call);
      const { name, arguments: given } = call.function;
      this.callList.append(element("pre", { tabindex: "0", "aria-label": "Call of a tool" },
        element("code", {}, `${name}(${JSON.stringify(given, null, 2)})`)));
    }
  }

  draw() {
    this.#drawn = 0;
    this.thinkingFold.hidden = !this.thinking;
    this.thoughtMarkdown.show(this.thinking);
    this.markdown.show(this.content);
  }

  /** Draws with the next frame, once for all that came before it. */
  drawSoon(after) {
    this.#drawn ||= requestAnimationFrame(() => {
      this.draw();
      after();
    });
  }

  end(text) {
    cancelAnimationFrame(this.#drawn);
    this.draw();
    // What was thought is less than what was said.
    if (this.content || this.calls.length) this.thinkingFold.open = false;
    this.facts.textContent = text;
    this.node.removeAttribute("aria-busy");
  }

  message() {
    const message = { role: "assistant", content: this.content };
    if (this.thinking) message.thinking = this.thinking;
    if (this.calls.length) message.tool_calls = this.calls;
    return message;
  }
}

/** A conversation shown in `log`; `changed(busy)` hears when an answer begins and ends. */
export class Chat {
  #messages = [];
  #running;

  constructor(log, changed) {
    this.log = log;
    this.changed = changed;
  }

  get busy() {
    return this.#running !== undefined;
  }

  /** Sends a message and shows the answer as it comes. Never rejects: an error is shown. */
  async send(text, { model, system, options, think }) {
    const running = new AbortController();
    this.#running = running;
    this.changed(true);
    const user = { role: "user", content: text };
    this.#show(element("article", { class: "user" }, element("h2", {}, "You"), element("div", { class: "text" }, text)));
    const messages = [...this.#messages, user];
    if (system) messages.unshift({ role: "system", content: system });
    const answer = new Answer(model);
    this.#show(answer.node);
    try {
      const body = { model, messages, stream: true, options, think };
      const response = await request("/api/chat", { body, signal: running.signal });
      let last;
      for await (const line of lines(response)) {
        if (line.error) throw new Error(line.error);
        if (line.message) answer.add(line.message);
        if (line.done) last = line;
        answer.drawSoon(() => this.#follow());
      }
      if (!last) throw new Error("the answer ended early");
      this.#finish(running, answer, summary(last), user);
    } catch (error) {
      const stopped = running.signal.aborted;
      if (stopped) this.#finish(running, answer, "stopped", user);
      else {
        this.#finish(running, answer, "", answer.content ? user : undefined);
        this.#show(element("p", { class: "error", role: "alert" }, error.message));
      }
    }
    if (this.#running === running) {
      this.#running = undefined;
      this.changed(false);
    }
  }

  /** Ends the answer that is coming; what came of it stays. */
  stop() {
    this.#running?.abort();
  }

  /** Forgets everything. */
  clear() {
    this.stop();
    this.#running = undefined;
    this.#messages = [];
    this.log.replaceChildren();
    this.changed(false);
  }

  /** The end of an answer; with `user`, it belongs to the conversation. */
  #finish(running, answer, text, user) {
    const follow = this.#isAtEnd();
    answer.end(text);
    if (follow) this.log.scrollTop = this.log.scrollHeight;
    if (user && this.#running === running) this.#messages.push(user, answer.message());
  }

  #show(node) {
    this.log.append(node);
    this.log.scrollTop = this.log.scrollHeight;
    this.lastHeight = this.log.scrollHeight;
  }

  #isAtEnd() {
    const height = this.lastHeight ?? this.log.scrollHeight;
    return height - this.log.scrollTop - this.log.clientHeight < 48;
  }

  /** Keeps the end in sight, unless the reader has scrolled away from it. */
  #follow() {
    if (this.#isAtEnd()) this.log.scrollTop = this.log.scrollHeight;
    this.lastHeight = this.log.scrollHeight;
  }
}
