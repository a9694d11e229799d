"""Ollama's own client for Python. with_ollama.py URL URL_WITH_KEY KEY GGUF"""

import asyncio
import math
import sys
import time
from typing import Literal

import ollama
from pydantic import BaseModel, ConfigDict, Field

import checks

URL, LOCKED, KEY, GGUF = sys.argv[1:]
client = ollama.Client(host=URL)
GREEDY = {"temperature": 0, "num_predict": 24}
QUESTION = [{"role": "user", "content": "Emma was very happy."}]


class Guest(BaseModel):
    # Else a model may go on with properties of its own.
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=12)
    rank: Literal["lady", "gentleman"]
    age: int = Field(ge=18, le=90)
    invited: bool
    dances: list[Literal["reel", "waltz"]] = Field(max_length=2)


def check_list_and_show():
    models = {m.model: m for m in client.list().models}
    assert set(models) >= {"story:latest", "tools:latest", "thinks:latest"}, models
    story = models["story:latest"]
    assert story.size > 1_000_000 and len(story.digest) == 64
    assert story.details.family == "llama" and story.details.format == "gguf"
    shown = client.show("story")
    assert shown.modelinfo["general.architecture"] == "llama"
    assert "completion" in shown.capabilities and "tools" not in shown.capabilities
    assert "temperature" in shown.parameters and "FROM" in shown.modelfile
    assert "tools" in client.show("tools").capabilities
    assert "thinking" in client.show("thinks").capabilities


def check_generate():
    whole = client.generate("story", "Emma was very happy.", options=GREEDY)
    assert whole.done and whole.response.strip(), whole
    assert 0 < whole.eval_count <= 24 and whole.prompt_eval_count > 0 and whole.total_duration > 0
    assert whole.done_reason in ("length", "stop")
    parts = list(client.generate("story", "Emma was very happy.", options=GREEDY, stream=True))
    assert "".join(p.response for p in parts) == whole.response
    assert len(parts) > 3 and parts[-1].done and not parts[0].done
    on = client.generate("story", "And then?", context=list(whole.context), options=GREEDY)
    assert list(on.context)[: len(whole.context)] == list(whole.context) and len(on.context) > len(whole.context)


def check_chat():
    whole = client.chat("story", QUESTION, options=GREEDY)
    assert whole.message.role == "assistant" and whole.message.content.strip()
    parts = list(client.chat("story", QUESTION, options=GREEDY, stream=True))
    assert "".join(p.message.content for p in parts) == whole.message.content
    assert parts[-1].eval_count == whole.eval_count
    long = QUESTION + [whole.message, {"role": "user", "content": "And her sister?"}]
    assert client.chat("story", long, options=GREEDY).message.content != whole.message.content


def check_answers_do_not_depend_on_who_else_asks():
    questions = [f"{name} had a sister." for name in ("Emma", "Jane", "Anne", "Mary", "Fanny")]
    alone = [client.chat("story", [{"role": "user", "content": q}], options=GREEDY).message.content for q in questions]

    async def together():
        many = ollama.AsyncClient(host=URL)
        asked = [many.chat("story", [{"role": "user", "content": q}], options=GREEDY) for q in questions]
        return [answer.message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(together()) == alone


def check_thinking():
    thought = client.chat("thinks", QUESTION, think=True)
    assert thought.message.thinking and not thought.message.content
    said = client.chat("thinks", QUESTION, think=False)
    assert said.message.content and not said.message.thinking
    error = checks.raises(ollama.ResponseError, lambda: client.chat("story", QUESTION, think=True))
    assert error.status_code == 400 and "does not support thinking" in error.error, error


def check_structured_output():
    for options in ({"temperature": 0}, {"temperature": 1.2, "seed": 4}):
        asked = {"format": Guest.model_json_schema(), "options": {**options, "num_predict": 200}}
        Guest.model_validate_json(client.chat("story", QUESTION, **asked).message.content)
        parts = client.generate("story", "A guest:", stream=True, **asked)
        Guest.model_validate_json("".join(p.response for p in parts))


def check_tools():
    def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: A city.
        """
        return city

    answer = client.chat("tools", QUESTION, tools=[weather], options=GREEDY)
    assert answer.message.content or answer.message.tool_calls
    call = {"function": {"name": "weather", "arguments": {"city": "Bath"}}}
    turn = QUESTION + [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
    ]
    more = client.chat("tools", turn, tools=[weather], options=GREEDY)
    assert more.message.content != answer.message.content
    error = checks.raises(ollama.ResponseError, lambda: client.chat("story", QUESTION, tools=[weather]))
    assert error.status_code == 400 and "does not support tools" in error.error, error


def check_embeddings():
    both = client.embed("story", ["Emma was happy.", "It rained."]).embeddings
    assert [len(e) for e in both] == [256, 256]
    for values in both:
        assert abs(math.sqrt(sum(v * v for v in values)) - 1) < 1e-3
    one = client.embed("story", "Emma was happy.").embeddings[0]
    assert max(abs(a - b) for a, b in zip(one, both[0])) < 1e-3
    assert sum(a * b for a, b in zip(*both)) < 0.9999
    assert len(client.embeddings("story", "Emma was happy.").embedding) == 256


def check_create_copy_delete():
    client.create("child", from_="story", system="You are Jane.", parameters={"temperature": 0.5, "stop": ["END"]})
    shown = client.show("child")
    assert "You are Jane." in shown.modelfile and "0.5" in shown.parameters and "END" in shown.parameters
    client.copy("child", "twin")
    names = {m.model for m in client.list().models}
    assert {"child:latest", "twin:latest"} <= names
    assert client.delete("child").status == "success" and client.delete("twin").status == "success"
    assert not {m.model for m in client.list().models} & {"child:latest", "twin:latest"}


def check_create_with_an_upload():
    digest = client.create_blob(GGUF)
    states = [p.status for p in client.create("uploaded", files={"model.gguf": digest}, stream=True)]
    assert states[-1] == "success", states
    say = lambda name: client.generate(name, "Emma was", raw=True, options=GREEDY).response
    assert say("uploaded") == say("story")
    client.delete("uploaded")


def check_ps_and_unload():
    client.generate("story", "Emma", options={"num_predict": 1}, keep_alive="5m")
    loaded = {m.model: m for m in client.ps().models}
    assert loaded["story:latest"].size > 0 and loaded["story:latest"].expires_at is not None
    assert client.generate("story", "", keep_alive=0).done_reason == "unload"
    end = time.monotonic() + 5
    while "story:latest" in {m.model for m in client.ps().models}:
        assert time.monotonic() < end, "story stays"
        time.sleep(0.05)


def check_errors():
    calls = [
        lambda: client.chat("nobody", QUESTION),
        lambda: client.generate("nobody", "x"),
        lambda: client.show("nobody"),
        lambda: client.delete("nobody"),
        lambda: client.embed("nobody", "x"),
        lambda: list(client.chat("nobody", QUESTION, stream=True)),
    ]
    for call in calls:
        error = checks.raises(ollama.ResponseError, call)
        assert error.status_code == 404 and "nobody" in error.error and "not found" in error.error, error
    error = checks.raises(ollama.ResponseError, lambda: client.generate("story", "x", options={"temperature": "hot"}))
    assert error.status_code == 400 and "temperature" in error.error, error
    error = checks.raises(ollama.ResponseError, lambda: ollama.Client(host=LOCKED).list())
    assert error.status_code == 401, error
    locked = ollama.Client(host=LOCKED, headers={"Authorization": f"Bearer {KEY}"})
    assert locked.list().models


checks.run(sys.modules[__name__])
