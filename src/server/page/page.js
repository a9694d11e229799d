// The page at `/`: wires the parts together.

import { Activity } from "./activity.js";
import { request } from "./api.js";
import { card, trainedContext } from "./card.js";
import { Chat } from "./chat.js";
import { byId, element } from "./dom.js";

const CHOSEN = "mdl.model";

const model = byId("model");
const message = byId("message");
const log = byId("log");
const status = byId("status");

const chat = new Chat(log, (busy) => {
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  log.setAttribute("aria-busy", String(busy));
  status.textContent = busy ? "The model answers." : "The answer is complete.";
});
new Activity(byId("activity"), byId("activity-body"));

/** The number in a field; `undefined` where it is empty or no number. */
function number(id) {
  const value = byId(id).valueAsNumber;
  return Number.isFinite(value) ? value : undefined;
}

function settings() {
  const names = ["temperature", "seed", "num_ctx", "num_predict"];
  const given = names.map((name) => [name, number(name)]).filter(([, value]) => value !== undefined);
  return {
    model: model.value,
    system: byId("system").value.trim(),
    options: Object.fromEntries(given),
    think: byId("thinks").hidden ? undefined : byId("think").checked,
  };
}

async function send() {
  const text = message.value.trim();
  if (!text || chat.busy || !model.value) return;
  const wrong = byId("settings").querySelector("input:invalid");
  if (wrong) {
    byId("settings").open = true;
    wrong.reportValidity();
    return;
  }
  byId("welcome")?.remove();
  message.value = "";
  await chat.send(text, settings());
}

/** Shows the model that was chosen. */
async function choose() {
  const name = model.value;
  const body = byId("card-body");
  sessionStorage.setItem(CHOSEN, name);
  try {
    const shown = await (await request("/api/show", { body: { model: name } })).json();
    if (model.value !== name) return;
    byId("thinks").hidden = !(shown.capabilities ?? []).includes("thinking");
    const set = new Map((shown.parameters ?? "").split("\n").map((line) => line.trim().split(/\s+/)));
    byId("temperature").placeholder = set.get("temperature") ?? "0.8";
    byId("num_predict").placeholder = set.get("num_predict") ?? "no limit";
    byId("num_ctx").max = trainedContext(shown) ?? "";
    byId("system").placeholder = shown.system || "None";
    body.replaceChildren(...card(shown));
  } catch (error) {
    body.replaceChildren(element("p", { class: "error" }, error.message));
  }
}

async function start() {
  const { models } = await (await request("/api/tags")).json();
  const earlier = sessionStorage.getItem(CHOSEN);
  model.replaceChildren(...models.map(({ name }) => element("option", { value: name, selected: name === earlier }, name)));
  model.disabled = models.length === 0;
  if (models.length === 0) {
    byId("welcome").textContent = "There is no model here yet: make one with `mdl build`, then load this page again.";
    return;
  }
  await choose();
}

byId("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
message.addEventListener("keydown", (event) => {
  // Enter also ends the input of many languages' editors: that one is theirs.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.busy && !document.querySelector("dialog[open]")) {
    chat.stop();
    message.focus();
  }
});
byId("stop").addEventListener("click", () => {
  chat.stop();
  message.focus();
});
byId("clear").addEventListener("click", () => {
  chat.clear();
  status.textContent = "A new conversation.";
  message.focus();
});
model.addEventListener("change", choose);
// On a small screen what is beside the chat is below it, and folded.
if (matchMedia("(max-width: 60rem)").matches) byId("settings").open = false;

start().catch((error) => log.append(element("p", { class: "error", role: "alert" }, error.message)));
