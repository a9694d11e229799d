// Makes nodes. Text becomes text nodes; nothing is ever parsed as HTML.

/** An element with attributes and children; `undefined`, `null` and `false` among them are left out. */
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false));
  return node;
}

/** The element of the page with this id. */
export const byId = (id) => document.getElementById(id);

/** A number with a thin space between thousands. */
export function count(number) {
  return Math.round(number).toString().replace(/\B(?=(\d{3})+$)/g, "\u2009");
}

/** Bytes for a person. */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

/** Seconds for a person. */
export function time(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

/** A table of two columns; a row whose value is `undefined` is left out. */
export function facts(rows) {
  const shown = rows.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return element("dl", {}, shown.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

/** A text behind a summary; nothing where there is no text. */
export function fold(title, text, open = false) {
  if (!text) return undefined;
  return element("details", { class: "fold", open }, element("summary", {}, title), element("pre", { tabindex: "0" }, text));
}
