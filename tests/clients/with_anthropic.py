"""Anthropic's client for Python. with_anthropic.py URL URL_WITH_KEY KEY GGUF"""

import sys

import anthropic
import jsonschema

import checks

URL, LOCKED, KEY = sys.argv[1:4]
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
QUESTION = [{"role": "user", "content": "Emma was very happy."}]
# The client has no argument for it any more; the API still has.
GREEDY = {"model": "story", "messages": QUESTION, "max_tokens": 24, "extra_body": {"temperature": 0}}
TOOLS = [
    {
        "name": "weather",
        "description": "It helps.",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 10}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    {
        "name": "dance",
        "description": "It helps.",
        "input_schema": {
            "type": "object",
            "properties": {"name": {"enum": ["reel", "waltz"]}},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
]


def prompt_tokens(message):
    """Those that were found in the cache are counted beside the others."""
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def check_messages():
    whole = client.messages.create(**GREEDY)
    assert whole.role == "assistant" and whole.content[0].type == "text" and whole.content[0].text.strip()
    assert whole.stop_reason in ("max_tokens", "end_turn") and whole.usage.output_tokens <= 24
    with client.messages.stream(**GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens and final.stop_reason == whole.stop_reason


def check_system_and_blocks():
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Emma was very happy."}]}]
    same = client.messages.create(**{**GREEDY, "messages": blocks})
    assert same.content[0].text == client.messages.create(**GREEDY).content[0].text
    with_system = client.messages.create(**GREEDY, system="You are Jane.")
    assert prompt_tokens(with_system) > prompt_tokens(same)


def check_stop_sequences():
    word = client.messages.create(**GREEDY).content[0].text.split()[3]
    cut = client.messages.create(**GREEDY, stop_sequences=[word])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == word
    assert all(word not in block.text for block in cut.content)


def check_count_tokens():
    counted = client.messages.count_tokens(model="story", messages=QUESTION)
    assert counted.input_tokens == prompt_tokens(client.messages.create(**GREEDY)) > 0


def check_tool_choice():
    asked = {**GREEDY, "model": "tools", "max_tokens": 200, "tools": TOOLS}
    for choice, names in (({"type": "any"}, {"weather", "dance"}), ({"type": "tool", "name": "dance"}, {"dance"})):
        answer = client.messages.create(**asked, tool_choice=choice)
        calls = [block for block in answer.content if block.type == "tool_use"]
        assert calls and answer.stop_reason == "tool_use", answer
        for call in calls:
            assert call.id and call.name in names
            jsonschema.validate(call.input, next(t["input_schema"] for t in TOOLS if t["name"] == call.name))
        with client.messages.stream(**asked, tool_choice=choice) as stream:
            streamed = [b for b in stream.get_final_message().content if b.type == "tool_use"]
        assert [(c.name, c.input) for c in streamed] == [(c.name, c.input) for c in calls]
    results = [{"type": "tool_result", "tool_use_id": c.id, "content": "rain"} for c in calls]
    turn = QUESTION + [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    more = client.messages.create(**{**asked, "messages": turn}, tool_choice={"type": "none"})
    assert more.content[0].type == "text"


def check_thinking():
    asked = {**GREEDY, "model": "thinks", "max_tokens": 1100}
    thought = client.messages.create(**{**asked, "extra_body": {}}, thinking={"type": "enabled", "budget_tokens": 1024})
    assert thought.content[0].type == "thinking" and thought.content[0].thinking.strip()
    said = client.messages.create(**{**asked, "max_tokens": 24}, thinking={"type": "disabled"})
    assert [block.type for block in said.content] == ["text"]


def check_errors():
    error = checks.raises(anthropic.NotFoundError, lambda: client.messages.create(**{**GREEDY, "model": "nobody"}))
    assert error.body["type"] == "error" and error.body["error"]["type"] == "not_found_error", error.body
    assert "nobody" in error.body["error"]["message"] and error.body["request_id"]
    error = checks.raises(anthropic.BadRequestError, lambda: client.messages.create(**{**GREEDY, "max_tokens": 0}))
    assert error.body["error"]["type"] == "invalid_request_error", error.body
    checks.raises(anthropic.BadRequestError, lambda: client.messages.create(**{**GREEDY, "messages": []}))
    ask = lambda key: anthropic.Anthropic(base_url=LOCKED, api_key=key, max_retries=0).messages.create(**GREEDY)
    error = checks.raises(anthropic.AuthenticationError, lambda: ask("0000000000000000"))
    assert error.body["error"]["type"] == "authentication_error", error.body
    assert ask(KEY).content


checks.run(sys.modules[__name__])
