// The card of a model: what /api/show knows.

import { bytes, count, element, facts, fold } from "./dom.js";

/** Bytes of a block and its elements, by type. */
const BLOCKS = {
  F64: [8, 1], F32: [4, 1], F16: [2, 1], BF16: [2, 1], I32: [4, 1], I16: [2, 1], I8: [1, 1],
  Q4_0: [18, 32], Q4_1: [20, 32], Q5_0: [22, 32], Q5_1: [24, 32], Q8_0: [34, 32],
  Q2_K: [84, 256], Q3_K: [110, 256], Q4_K: [144, 256], Q5_K: [176, 256], Q6_K: [210, 256],
  IQ4_NL: [18, 32], IQ4_XS: [136, 256],
};

/** Tensors by type: how many, their elements, their bytes where the type is known; the largest first. */
export function tensorTypes(tensors) {
  const types = new Map();
  for (const { type, shape } of tensors ?? []) {
    const entry = types.get(type) ?? { type, tensors: 0, elements: 0 };
    entry.tensors += 1;
    entry.elements += (shape ?? []).reduce((product, n) => product * n, 1);
    types.set(type, entry);
  }
  const all = [...types.values()];
  for (const entry of all) {
    const block = BLOCKS[entry.type];
    if (block) entry.bytes = (entry.elements / block[1]) * block[0];
  }
  return all.sort((a, b) => (b.bytes ?? b.elements) - (a.bytes ?? a.elements));
}

/** The value of `ARCHITECTURE.key`. */
const info = (shown, key) => shown.model_info?.[`${shown.model_info["general.architecture"]}.${key}`];

/** The context that the model was trained for. */
export const trainedContext = (shown) => info(shown, "context_length");

const number = (value) => (typeof value === "number" ? count(value) : undefined);

/** The card's nodes. */
export function card(shown) {
  const details = shown.details ?? {};
  const types = tensorTypes(shown.tensors);
  const heads = info(shown, "attention.head_count");
  const shared = info(shown, "attention.head_count_kv");
  const table = element("table", {},
    element("caption", {}, "Tensors by type"),
    element("thead", {}, element("tr", {}, ["Type", "Tensors", "Elements", "Size"].map((h) => element("th", { scope: "col" }, h)))),
    element("tbody", {}, types.map((t) => element("tr", {},
      element("th", { scope: "row" }, t.type),
      element("td", {}, count(t.tensors)),
      element("td", {}, count(t.elements)),
      element("td", {}, t.bytes === undefined ? "—" : bytes(t.bytes))))));
  return [
    facts([
      ["Architecture", shown.model_info?.["general.architecture"] ?? details.family],
      ["Parameters", details.parameter_size],
      ["Quantization", details.quantization_level],
      ["Format", details.format],
      ["Blocks", number(info(shown, "block_count"))],
      ["Embedding", number(info(shown, "embedding_length"))],
      ["Feed forward", number(info(shown, "feed_forward_length"))],
      ["Heads", heads && (shared && shared !== heads ? `${heads}, ${shared} for keys and values` : `${heads}`)],
      ["Context", number(trainedContext(shown))],
      ["Vocabulary", number(info(shown, "vocab_size"))],
      ["Can", (shown.capabilities ?? []).join(", ")],
    ]),
    types.length > 0 && element("div", { class: "wide" }, table),
    fold("Parameters", shown.parameters),
    fold("System prompt", shown.system),
    fold("Template", shown.template),
    fold("License", shown.license),
    fold("Modelfile", shown.modelfile),
  ].filter(Boolean);
}
