// The little of Markdown that models write most: code, headings, lists, quotes, bold, italic. It becomes
// nodes, never HTML. Links stay text: what a model writes should not lead away by a click.

import { element } from "./dom.js";

/** Cuts a text into blocks `{kind, source, ...}`. Appending to the text changes the last blocks only. */
export function blocks(text) {
  const found = [];
  const lines = text.split("\n");
  let open;
  const end = () => {
    if (open) found.push({ ...open, source: `${open.kind} ${open.info ?? ""}\n${open.lines.join("\n")}` });
    open = undefined;
  };
  for (const line of lines) {
    if (open?.kind === "code") {
      const close = /^ {0,3}(`{3,})\s*$/.exec(line);
      if (close && close[1].length >= open.fence) end();
      else open.lines.push(line);
      continue;
    }
    const fence = /^ {0,3}(`{3,})([^`]*)$/.exec(line);
    if (fence) {
      end();
      open = { kind: "code", fence: fence[1].length, info: fence[2].trim(), lines: [] };
      continue;
    }
    if (!line.trim()) {
      // A list goes on behind a blank line if its next line is an item; that item begins a new list here.
      end();
      continue;
    }
    const heading = /^(#{1,6})\s+(.*)$/.exec(line);
    if (heading) {
      end();
      open = { kind: "heading", info: heading[1].length, lines: [heading[2]] };
      end();
      continue;
    }
    const item = /^\s*(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/.exec(line);
    const kind = item ? (item[1] ? "ordered" : "list") : /^\s*>/.test(line) ? "quote" : "paragraph";
    if (open && open.kind !== kind) {
      // A line below an item belongs to it.
      if (kind === "paragraph" && (open.kind === "list" || open.kind === "ordered")) {
        open.lines[open.lines.length - 1] += `\n${line.trim()}`;
        continue;
      }
      end();
    }
    open ??= { kind, info: item?.[1], lines: [] };
    open.lines.push(item ? item[2] : kind === "quote" ? line.replace(/^\s*> ?/, "") : line);
  }
  end();
  return found;
}

const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*|(?<![\w*])\*([^*\s](?:[^*\n]*[^*\s])?)\*(?![\w*])/g;

/** The nodes of a line of text. */
function inline(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > at) nodes.push(text.slice(at, match.index));
    const [name, inner] = match[1] !== undefined ? ["code", match[1]]
      : match[2] !== undefined ? ["strong", match[2]] : ["em", match[3]];
    nodes.push(element(name, {}, inner));
    at = match.index + match[0].length;
  }
  if (at < text.length) nodes.push(text.slice(at));
  return nodes;
}

function node(block) {
  const whole = block.lines.join("\n");
  switch (block.kind) {
    case "code":
      return element("pre", { tabindex: "0", "data-language": block.info || undefined }, element("code", {}, whole));
    case "heading":
      return element(`h${Math.min(6, block.info + 2)}`, {}, inline(whole));
    case "list":
      return element("ul", {}, block.lines.map((line) => element("li", {}, inline(line))));
    case "ordered":
      return element("ol", { start: block.info }, block.lines.map((line) => element("li", {}, inline(line))));
    case "quote":
      return element("blockquote", {}, inline(whole));
    default:
      return element("p", {}, inline(whole));
  }
}

/** Shows a text that grows in `place`: only the blocks that changed are made again. */
export class Markdown {
  #sources = [];

  constructor(place) {
    this.place = place;
  }

  show(text) {
    const all = blocks(text);
    let same = 0;
    while (same < all.length && all[same].source === this.#sources[same]) same += 1;
    while (this.place.childNodes.length > same) this.place.lastChild.remove();
    this.place.append(...all.slice(same).map(node));
    this.#sources = all.map((block) => block.source);
  }
}
