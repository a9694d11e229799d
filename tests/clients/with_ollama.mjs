// Ollama's own client for JavaScript. with_ollama.mjs URL URL_WITH_KEY KEY GGUF

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { z } from "zod";
import { z as z3 } from "zod/v3";
import { zodToJsonSchema } from "zod-to-json-schema";
import { run } from "./checks.mjs";

const [url, locked, key] = process.argv.slice(2);
const ollama = new Ollama({ host: url });
const options = { temperature: 0, num_predict: 24 };
const messages = [{ role: "user", content: "Emma was very happy." }];

const guest = z.object({ name: z.string().max(12), rank: z.enum(["lady", "gentleman"]), invited: z.boolean() }).strict();
const guest3 = z3.object({ name: z3.string().max(12), rank: z3.enum(["lady", "gentleman"]), invited: z3.boolean() }).strict();

await run({
  async "list, show, copy, delete"() {
    const { models } = await ollama.list();
    assert.ok(models.some((m) => m.name === "story:latest" && m.size > 1e6));
    const shown = await ollama.show({ model: "story" });
    assert.equal(shown.details.family, "llama");
    await ollama.create({ model: "child", from: "story", system: "You are Jane." });
    await ollama.copy({ source: "child", destination: "twin" });
    assert.match((await ollama.show({ model: "twin" })).modelfile, /You are Jane\./);
    await ollama.delete({ model: "child" });
    await ollama.delete({ model: "twin" });
    assert.ok(!(await ollama.list()).models.some((m) => ["child:latest", "twin:latest"].includes(m.name)));
  },

  async "generate and chat, whole and streamed"() {
    const whole = await ollama.generate({ model: "story", prompt: "Emma was", options });
    let text = "";
    for await (const part of await ollama.generate({ model: "story", prompt: "Emma was", options, stream: true })) text += part.response;
    assert.equal(text, whole.response);
    const said = await ollama.chat({ model: "story", messages, options });
    assert.ok(said.message.content.trim());
    text = "";
    for await (const part of await ollama.chat({ model: "story", messages, options, stream: true })) text += part.message.content;
    assert.equal(text, said.message.content);
  },

  async "an answer can be aborted"() {
    const asked = { model: "story", messages, options: { temperature: 1, num_predict: 100_000 }, stream: true };
    const stream = await ollama.chat(asked);
    await assert.rejects(async () => {
      for await (const part of stream) if (!part.done) stream.abort();
    }, { name: "AbortError" });
  },

  async "zod's schemas are kept"() {
    const long = { ...options, num_predict: 200 };
    const said = await ollama.chat({ model: "story", messages, options: long, format: z.toJSONSchema(guest) });
    guest.parse(JSON.parse(said.message.content));
    const third = await ollama.chat({ model: "story", messages, options: long, format: zodToJsonSchema(guest3) });
    guest3.parse(JSON.parse(third.message.content));
  },

  async "thinking"() {
    const { message } = await ollama.chat({ model: "thinks", messages, think: true });
    assert.ok(message.thinking && !message.content);
  },

  async "embeddings"() {
    const { embeddings } = await ollama.embed({ model: "story", input: ["Emma was happy.", "It rained."] });
    assert.deepEqual(embeddings.map((e) => e.length), [256, 256]);
  },

  async "errors"() {
    await assert.rejects(ollama.chat({ model: "nobody", messages }), { name: "ResponseError", status_code: 404 });
    await assert.rejects(ollama.chat({ model: "story", messages, think: true }), { name: "ResponseError", status_code: 400 });
    await assert.rejects(new Ollama({ host: locked }).list(), { name: "ResponseError", status_code: 401 });
    const headers = { Authorization: `Bearer ${key}` };
    assert.ok((await new Ollama({ host: locked, headers }).list()).models.length > 0);
  },
});
