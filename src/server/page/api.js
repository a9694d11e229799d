// Talks to the server that this page came from.

import { element } from "./dom.js";

const STORED = "mdl.key";
let asking;

/**
 * Sends a request: with `body`, a POST of JSON. Where the server wants a key, asks for one and tries again;
 * a `quiet` request does not ask. Throws an Error with the server's words when the answer is an error.
 */
export async function request(path, { body, quiet = false, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem(STORED);
    const headers = {};
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      signal,
      cache: "no-store",
    });
    if (response.status === 401 && !quiet) {
      const changed = sessionStorage.getItem(STORED) !== key;
      if (changed || (await ask(await reason(response)))) continue;
      throw new Error("this server wants a key");
    }
    if (!response.ok) throw new Error(await reason(response));
    return response;
  }
}

/** The objects of a stream of JSON lines, each as soon as its line is there. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const whole = (rest + value).split("\n");
      rest = whole.pop();
      for (const line of whole) if (line.trim()) yield JSON.parse(line);
    }
    if (rest.trim()) yield JSON.parse(rest);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** The words of an error. */
async function reason(response) {
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text);
    return error?.message ?? error ?? text;
  } catch {
    return text || `${response.status} ${response.statusText}`;
  }
}

/** Asks for a key, once for all requests that wait. Resolves to false when there is none. */
function ask(why) {
  asking ??= new Promise((resolve) => {
    const input = element("input", {
      id: "key", type: "password", required: true, autocomplete: "off", pattern: "[!-~]+",
    });
    let given = false;
    const submit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORED, input.value);
      given = true;
      dialog.close();
    };
    const form = element("form", { onsubmit: submit },
      element("h2", { id: "key-title" }, "This server wants a key"),
      element("p", {}, why),
      element("label", { for: "key" }, "API key"),
      input,
      element("p", { class: "hint" }, "It is kept until this tab is closed."),
      element("div", { class: "actions" },
        element("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        element("button", { type: "submit", class: "primary" }, "Use it")));
    const dialog = element("dialog", { "aria-labelledby": "key-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      asking = undefined;
      resolve(given);
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
  return asking;
}
