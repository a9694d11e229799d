"""OpenAI's client for Python. with_openai.py URL URL_WITH_KEY KEY GGUF"""

import json
import sys
from typing import Literal

import jsonschema
import openai
from pydantic import BaseModel, ConfigDict, Field

import checks

URL, LOCKED, KEY = sys.argv[1:4]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
QUESTION = [{"role": "user", "content": "Emma was very happy."}]
GREEDY = {"model": "story", "messages": QUESTION, "temperature": 0, "max_tokens": 24}


class Guest(BaseModel):
    # Else a model may go on with properties of its own.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    rank: Literal["lady", "gentleman"]
    age: int = Field(ge=18, le=90)
    invited: bool


def tool(name, properties):
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": "It helps.", "parameters": schema}}


TOOLS = [
    tool("weather", {"city": {"type": "string", "maxLength": 10}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}),
    tool("dance", {"name": {"enum": ["reel", "waltz"]}}),
]


def arguments_fit(name, arguments):
    schema = next(t["function"]["parameters"] for t in TOOLS if t["function"]["name"] == name)
    jsonschema.validate(json.loads(arguments), schema)


def check_models():
    assert "story:latest" in {m.id for m in client.models.list()} or "story" in {m.id for m in client.models.list()}
    assert client.models.retrieve("story").object == "model"


def check_chat():
    whole = client.chat.completions.create(**GREEDY)
    choice = whole.choices[0]
    assert choice.message.role == "assistant" and choice.message.content.strip()
    assert choice.finish_reason in ("length", "stop")
    assert whole.usage.completion_tokens <= 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    parts = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    text = "".join(p.choices[0].delta.content or "" for p in parts if p.choices)
    assert text == choice.message.content
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({p.id for p in parts}) == 1


def check_choices_seeds_and_stops():
    hot = {**GREEDY, "temperature": 1.0, "seed": 5, "n": 3}
    first, again = client.chat.completions.create(**hot), client.chat.completions.create(**hot)
    texts = [c.message.content for c in first.choices]
    assert [c.index for c in first.choices] == [0, 1, 2] and len(set(texts)) > 1
    assert texts == [c.message.content for c in again.choices]
    word = client.chat.completions.create(**GREEDY).choices[0].message.content.split()[3]
    cut = client.chat.completions.create(**GREEDY, stop=[word]).choices[0]
    assert word not in cut.message.content and cut.finish_reason == "stop"


def check_logprobs():
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token


def check_structured_output():
    asked = {**GREEDY, "max_tokens": 200}
    parsed = client.chat.completions.parse(**asked, response_format=Guest).choices[0].message.parsed
    assert isinstance(parsed, Guest) and len(parsed.name) <= 12
    form = {"type": "json_schema", "json_schema": {"name": "guest", "schema": Guest.model_json_schema()}}
    Guest.model_validate_json(client.chat.completions.create(**asked, response_format=form).choices[0].message.content)
    with client.chat.completions.stream(**asked, response_format=Guest) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Guest)


def check_tool_choice():
    asked = {**GREEDY, "model": "tools", "max_tokens": 200, "tools": TOOLS}
    for choice, names in (("required", {"weather", "dance"}), ({"type": "function", "function": {"name": "dance"}}, {"dance"})):
        answer = client.chat.completions.create(**asked, tool_choice=choice).choices[0]
        calls = answer.message.tool_calls
        assert calls and answer.finish_reason in ("tool_calls", "stop"), answer
        for call in calls:
            assert call.id and call.function.name in names
            arguments_fit(call.function.name, call.function.arguments)
        with client.chat.completions.stream(**asked, tool_choice=choice) as stream:
            streamed = stream.get_final_completion().choices[0].message.tool_calls
        same = lambda calls: [(c.function.name, json.loads(c.function.arguments)) for c in calls]
        assert same(streamed) == same(calls)
    result = [answer.message, *[{"role": "tool", "tool_call_id": c.id, "content": "rain"} for c in calls]]
    more = client.chat.completions.create(**{**asked, "messages": QUESTION + result}, tool_choice="none")
    assert more.choices[0].message.content and not more.choices[0].message.tool_calls


def check_completions():
    whole = client.completions.create(model="story", prompt="Emma was", temperature=0, max_tokens=16)
    parts = client.completions.create(model="story", prompt="Emma was", temperature=0, max_tokens=16, stream=True)
    assert "".join(p.choices[0].text for p in parts if p.choices) == whole.choices[0].text != ""


def check_responses():
    asked = {"model": "story", "input": "Emma was very happy.", "temperature": 0, "max_output_tokens": 24}
    whole = client.responses.create(**asked)
    assert whole.output_text.strip() and whole.usage.output_tokens <= 24
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text == events[-1].response.output_text
    assert events[0].type == "response.created" and events[-1].type == f"response.{whole.status}"
    parsed = client.responses.parse(**{**asked, "max_output_tokens": 200}, text_format=Guest).output_parsed
    assert isinstance(parsed, Guest)


def check_embeddings():
    # The client asks for base64 by itself.
    both = client.embeddings.create(model="story", input=["Emma was happy.", "It rained."])
    assert [len(d.embedding) for d in both.data] == [256, 256] and both.usage.prompt_tokens > 0
    plain = client.embeddings.create(model="story", input="Emma was happy.", encoding_format="float")
    assert max(abs(a - b) for a, b in zip(plain.data[0].embedding, both.data[0].embedding)) < 1e-3


def check_errors():
    error = checks.raises(openai.NotFoundError, lambda: client.chat.completions.create(**{**GREEDY, "model": "nobody"}))
    assert "nobody" in error.message and error.body["code"] == "model_not_found", error.body
    checks.raises(openai.NotFoundError, lambda: client.models.retrieve("nobody"))
    error = checks.raises(openai.BadRequestError, lambda: client.chat.completions.create(**{**GREEDY, "messages": []}))
    assert error.body["type"] == "invalid_request_error", error.body
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no such type"}}}
    checks.raises(openai.BadRequestError, lambda: client.chat.completions.create(**GREEDY, response_format=wrong))
    locked = lambda key: openai.OpenAI(base_url=f"{LOCKED}/v1", api_key=key, max_retries=0).models.list()
    checks.raises(openai.AuthenticationError, lambda: locked("0000000000000000"))
    assert locked(KEY).data


checks.run(sys.modules[__name__])
