// OpenAI's client for JavaScript. with_openai.mjs URL URL_WITH_KEY KEY GGUF

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { run } from "./checks.mjs";

const [url, locked, key] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Emma was very happy." }];
const greedy = { model: "story", messages, temperature: 0, max_tokens: 24 };

const guest = z.object({ name: z.string().max(12), rank: z.enum(["lady", "gentleman"]), invited: z.boolean() });
const dance = z.object({ name: z.enum(["reel", "waltz"]), couples: z.number().int().min(1).max(20) });

await run({
  async "models"() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    assert.ok(ids.some((id) => id.startsWith("story")));
  },

  async "chat, whole and streamed"() {
    const whole = await client.chat.completions.create(greedy);
    assert.ok(whole.choices[0].message.content.trim());
    const stream = client.chat.completions.stream(greedy);
    let text = "";
    stream.on("content", (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(final.choices[0].message.content, text);
  },

  async "structured output through zod"() {
    const asked = { ...greedy, max_tokens: 200, response_format: zodResponseFormat(guest, "guest") };
    const { choices } = await client.chat.completions.parse(asked);
    guest.parse(choices[0].message.parsed);
  },

  async "an enforced call of a tool, its arguments through zod"() {
    const tool = zodFunction({ name: "dance", parameters: dance, description: "Begins a dance." });
    const tool_choice = { type: "function", function: { name: "dance" } };
    const asked = { ...greedy, model: "tools", max_tokens: 200, tools: [tool], tool_choice };
    const { choices } = await client.chat.completions.parse(asked);
    const [call] = choices[0].message.tool_calls;
    assert.equal(call.function.name, "dance");
    dance.parse(call.function.parsed_arguments);
  },

  async "embeddings"() {
    const { data } = await client.embeddings.create({ model: "story", input: ["Emma was happy.", "It rained."] });
    assert.deepEqual(data.map((d) => d.embedding.length), [256, 256]);
  },

  async "errors"() {
    await assert.rejects(client.chat.completions.create({ ...greedy, model: "nobody" }), OpenAI.NotFoundError);
    await assert.rejects(client.chat.completions.create({ ...greedy, messages: [] }), OpenAI.BadRequestError);
    const asks = (apiKey) => new OpenAI({ baseURL: `${locked}/v1`, apiKey, maxRetries: 0 }).models.list();
    await assert.rejects(async () => asks("0000000000000000"), OpenAI.AuthenticationError);
    assert.ok((await asks(key)).data.length > 0);
  },
});
