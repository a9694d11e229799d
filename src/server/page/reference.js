// The reference at `/reference`, drawn from /openapi.json.

import { request } from "./api.js";
import { byId, element } from "./dom.js";
import { example, resolve, typeName } from "./schema.js";

const METHODS = ["get", "head", "post", "put", "patch", "delete", "options"];

/** The properties of a schema, those of its parts included. */
function properties(api, schema, depth = 0) {
  const whole = resolve(api, schema);
  if (depth > 8) return [];
  const own = Object.entries(whole.properties ?? {}).map(([name, inner]) => ({
    name, inner, required: (whole.required ?? []).includes(name),
  }));
  return (whole.allOf ?? []).flatMap((part) => properties(api, part, depth + 1)).concat(own);
}

/** The schemas below a schema that have something to unfold: `[title, schema]`. */
function parts(api, schema) {
  const whole = resolve(api, schema);
  if (whole.items) return [["each", whole.items]];
  const choices = whole.oneOf ?? whole.anyOf;
  if (choices) return choices.filter((c) => resolve(api, c).type !== "null").map((c) => [typeName(api, c), c]);
  if (typeof whole.additionalProperties === "object") return [["each value", whole.additionalProperties]];
  return [];
}

/** A line of a schema; what is inside is drawn when it is unfolded, for a schema may hold itself. */
function line(api, name, schema, required) {
  const whole = resolve(api, schema);
  const text = schema.description ?? whole.description;
  const head = [
    element("code", {}, name), " ",
    element("span", { class: "type" }, typeName(api, schema)),
    required && element("span", { class: "required" }, " required"),
    whole.enum && element("span", { class: "type" }, ` ${whole.enum.map((v) => JSON.stringify(v)).join(" | ")}`),
    text && element("span", {}, ` ${text}`),
  ];
  if (properties(api, schema).length + parts(api, schema).length === 0) return element("li", {}, head);
  const fold = element("details", {}, element("summary", {}, head));
  fold.addEventListener("toggle", () => fold.append(tree(api, schema)), { once: true });
  return element("li", {}, fold);
}

function tree(api, schema) {
  return element("ul", { class: "schema" },
    properties(api, schema).map((p) => line(api, p.name, p.inner, p.required)),
    parts(api, schema).map(([title, inner]) => line(api, title, inner, false)));
}

/** The content of a body by its type. */
function contents(api, content) {
  return Object.entries(content ?? {}).map(([type, { schema }]) => [
    element("p", { class: "type" }, type, schema ? ` · ${typeName(api, schema)}` : ""),
    schema && tree(api, schema),
  ]);
}

/** A text in quotes of a shell. */
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl(api, method, path, operation) {
  const lines = [`curl ${method === "get" ? "" : method === "head" ? "-I " : `-X ${method.toUpperCase()} `}${location.origin}${path}`];
  if (sessionStorage.getItem("mdl.key")) lines.push(`-H "Authorization: Bearer $MDL_API_KEY"`);
  const json = operation.requestBody?.content?.["application/json"];
  if (json) {
    lines.push("-H 'Content-Type: application/json'");
    const value = json.example ?? example(api, json.schema ?? {});
    lines.push(`-d ${quoted(JSON.stringify(value, null, 2))}`);
  } else if (operation.requestBody) lines.push("--data-binary @FILE");
  return lines.join(" \\\n  ");
}

function body(api, method, path, operation) {
  const parameters = (operation.parameters ?? []).map((p) => resolve(api, p));
  return element("div", {},
    operation.description && element("p", {}, operation.description),
    parameters.length > 0 && [
      element("h3", {}, "Parameters"),
      element("ul", { class: "schema" }, parameters.map((p) => {
        const schema = { ...(p.schema ?? {}), description: [`in ${p.in}.`, p.description].filter(Boolean).join(" ") };
        return line(api, p.name, schema, p.required);
      })),
    ],
    operation.requestBody && [element("h3", {}, "Request"), contents(api, operation.requestBody.content)],
    element("h3", {}, "Responses"),
    Object.entries(operation.responses ?? {}).map(([status, response]) => {
      const whole = resolve(api, response);
      return [element("p", {}, element("code", {}, status), ` ${whole.description ?? ""}`), contents(api, whole.content)];
    }),
    element("h3", {}, "Example"),
    element("pre", { tabindex: "0", "aria-label": "Example" }, element("code", {}, curl(api, method, path, operation))));
}

/** Operations by tag: `{method, path, operation, id}`. */
function byTag(api) {
  const tags = new Map();
  for (const [path, item] of Object.entries(api.paths ?? {})) {
    for (const method of METHODS.filter((m) => item[m])) {
      const operation = item[method];
      const id = `${method}${path.replace(/[^A-Za-z0-9]+/g, "-")}`;
      const tag = operation.tags?.[0] ?? "other";
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push({ method, path, operation, id });
    }
  }
  return tags;
}

function draw(api) {
  const list = [];
  const sections = [];
  const all = [];
  for (const [tag, operations] of byTag(api)) {
    const section = element("section", { "aria-label": tag }, element("h2", {}, tag));
    const links = element("ul");
    for (const { method, path, operation, id } of operations) {
      const title = [element("span", { class: `method ${method}` }, method.toUpperCase()), " "];
      const fold = element("details", { class: "operation", id },
        element("summary", {}, title, element("span", { class: "path" }, path), operation.summary && ` ${operation.summary}`));
      fold.addEventListener("toggle", () => fold.append(body(api, method, path, operation)), { once: true });
      const link = element("li", {}, element("a", { href: `#${id}` }, `${method.toUpperCase()} ${path}`));
      section.append(fold);
      links.append(link);
      const words = [method, path, tag, operation.summary, operation.description].join(" ").toLowerCase();
      all.push({ fold, link, words });
    }
    const title = element("h2", {}, tag);
    list.push(title, links);
    sections.push(section);
  }
  byId("contents").replaceChildren(...list);
  const place = byId("operations");
  place.replaceChildren(element("p", {}, api.info?.description ?? ""), ...sections);
  place.removeAttribute("aria-busy");
  return all;
}

/** Opens the operation that the address names. */
function unfold() {
  const fold = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (fold?.classList.contains("operation")) {
    fold.open = true;
    fold.scrollIntoView();
    fold.firstElementChild.focus({ preventScroll: true });
  }
}

try {
  const all = draw(await (await request("/openapi.json")).json());
  byId("filter").addEventListener("input", ({ target }) => {
    const wanted = target.value.trim().toLowerCase().split(/\s+/);
    for (const { fold, link, words } of all) {
      fold.hidden = link.hidden = !wanted.every((w) => words.includes(w));
    }
    for (const section of document.querySelectorAll("#operations > section")) {
      section.hidden = !section.querySelector(".operation:not([hidden])");
    }
    for (const title of document.querySelectorAll("#contents > h2")) {
      title.hidden = !title.nextElementSibling.querySelector("li:not([hidden])");
    }
  });
  addEventListener("hashchange", unfold);
  unfold();
} catch (error) {
  byId("operations").replaceChildren(element("p", { class: "error", role: "alert" }, error.message));
}
