"""Renders every jinja/*.jinja for the conversations below as transformers does and writes
jinja/NAME.json: a list of {"case", "output"} or {"case", "error"}, "raised" where the template
itself refuses; and cases.json, the variables of each case. Run here with Jinja2 3.1.6."""
import datetime
import glob
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 11, 24, 13, 5, 9)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(lineno)

    def _body(self, caller):
        return caller()


class Raised(jinja2.exceptions.TemplateError):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda form: NOW.strftime(form)


def says(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a place",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city's name, e.g. \"Kraków\" <or> a 'village' & so on"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14},
            },
            "required": ["city"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the web.\nReturns pages.",
        "parameters": {
            "type": "object",
            "properties": {
                "queries": {"type": "array", "items": {"type": "string"}, "description": "What to look for"},
                "options": {
                    "type": "object",
                    "properties": {"safe": {"type": "boolean"}, "score": {"type": "number", "default": 0.5}},
                    "required": ["safe"],
                },
            },
            "required": ["queries", "options"],
        },
        "return": {"type": "object", "description": "pages"},
    },
}
NOTHING = {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}}
UNIONS = {
    "type": "function",
    "function": {
        "name": "unions",
        "description": "Takes anything",
        "parameters": {
            "type": "object",
            "properties": {
                "any": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                "maybe": {"type": ["integer", "null"], "description": "or nothing"},
            },
        },
    },
}
TOOLS = [WEATHER, SEARCH, NOTHING]

SYSTEM = says("system", "You are a careful assistant.\nAnswer briefly.")
ONE = [says("user", "  What is 2 + 2?\n")]
WITH_SYSTEM = [SYSTEM, says("user", "Say \"hello\" in <three> languages & more: ß, 日本語, 😀.")]
TURNS = [
    says("user", "Hi"),
    says("assistant", "Hello! How can I help?"),
    says("user", "Tell me a story"),
    says("assistant", " Once upon a time.\n\nThe end.\n"),
    says("user", "Another one"),
]
SYSTEM_TURNS = [SYSTEM, *TURNS]
CALLED = [
    says("user", "How warm is it in Paris?"),
    says("assistant", "", tool_calls=[call("get_weather", {"city": "Paris", "unit": "celsius", "days": 3})]),
    says("tool", "{\"temperature\": 21.5, \"sky\": \"clear\"}", name="get_weather", tool_call_id="call00001"),
]
ANSWERED = [*CALLED, says("assistant", "21.5 degrees."), says("user", "Thanks. And in Rome?")]
CALL_NONE = [CALLED[0], {**CALLED[1], "content": None}, CALLED[2]]
TWO_CALLS = [
    SYSTEM,
    says("user", "Weather in Rome, and news?"),
    says(
        "assistant",
        "Let me look.",
        tool_calls=[
            call("get_weather", {"city": "Rome"}, "call00001"),
            call("search", {"queries": ["news", "Rome \"today\""], "options": {"safe": True, "score": 1.0}, "limit": None}, "call00002"),
        ],
    ),
    says("tool", "19", name="get_weather", tool_call_id="call00001"),
    says("tool", "Nothing new.", name="search", tool_call_id="call00002"),
]
TEXT_CALL = [CALLED[0], says("assistant", "", tool_calls=[call("get_weather", "{\"city\": \"Paris\"}")]), CALLED[2]]
THOUGHT = [
    says("user", "17 * 3?"),
    says("assistant", "51", reasoning_content="17 * 3 is 51.", thinking="17 * 3 is 51."),
    says("user", "And 18 * 3?"),
    says("assistant", "<think>\nit is 54\n</think>\n\n54"),
    says("user", "And 19 * 3?"),
]
THOUGHT_CALL = [
    says("user", "How warm is it in Paris?"),
    says("assistant", "", reasoning_content="I should ask.", thinking="I should ask.", tool_calls=CALLED[1]["tool_calls"]),
    CALLED[2],
]
PARTS = [
    says("system", [{"type": "text", "text": "Be brief."}]),
    says("user", [{"type": "text", "text": "What is this?"}, {"type": "image"}, {"type": "text", "text": " Say."}]),
]
TEXT_PARTS = [says("user", [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}])]
DOCUMENTS = [
    {"doc_id": 1, "title": "Tides", "text": "The moon makes the tides.", "content": "The moon makes the tides."},
    {"doc_id": 2, "title": "Sun", "text": "The sun \"too\".", "content": "The sun \"too\"."},
]

# Name, variables besides the tokens'.
CASES = {
    "user": {"messages": ONE},
    "user, no prompt for the answer": {"messages": ONE, "add_generation_prompt": False},
    "system": {"messages": WITH_SYSTEM},
    "turns": {"messages": TURNS},
    "system, turns": {"messages": SYSTEM_TURNS},
    "system, turns, no prompt for the answer": {"messages": SYSTEM_TURNS, "add_generation_prompt": False},
    "ends with the assistant": {"messages": TURNS[:4], "add_generation_prompt": False},
    "tools": {"messages": WITH_SYSTEM, "tools": TOOLS},
    "tools, no system": {"messages": ONE, "tools": TOOLS},
    "unions": {"messages": ONE, "tools": [UNIONS]},
    "no tools": {"messages": WITH_SYSTEM, "tools": []},
    "call and result": {"messages": CALLED, "tools": TOOLS},
    "call without content": {"messages": CALL_NONE, "tools": TOOLS},
    "call and result without tools": {"messages": CALLED},
    "answered call": {"messages": ANSWERED, "tools": TOOLS},
    "two calls": {"messages": TWO_CALLS, "tools": TOOLS},
    "call with arguments as text": {"messages": TEXT_CALL, "tools": [WEATHER]},
    "thought": {"messages": THOUGHT},
    "thought before a call": {"messages": THOUGHT_CALL, "tools": [WEATHER]},
    "thinking on": {"messages": SYSTEM_TURNS, "enable_thinking": True, "thinking": True},
    "thinking off": {"messages": SYSTEM_TURNS, "enable_thinking": False, "thinking": False},
    "thinking off, tools": {"messages": TWO_CALLS, "tools": TOOLS, "enable_thinking": False, "thinking": False},
    "effort": {"messages": ONE, "reasoning_effort": "high", "enable_thinking": True},
    "parts": {"messages": PARTS},
    "text in parts": {"messages": TEXT_PARTS},
    "documents": {"messages": WITH_SYSTEM, "documents": DOCUMENTS},
    "two users": {"messages": [*ONE, *ONE]},
    "unknown role": {"messages": [says("narrator", "It was dark."), *ONE]},
    "no messages": {"messages": []},
}


def main():
    cases = {}
    for name, given in CASES.items():
        variables = {
            "messages": given["messages"],
            "tools": given.get("tools"),
            "documents": given.get("documents"),
            "add_generation_prompt": given.get("add_generation_prompt", True),
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "additional_special_tokens": ["<s0>", "<s1>", "<s2>", "<s3>"],
        }
        if given.get("tools"):
            # The name under which Firefunction and some others take tools: a text.
            variables["functions"] = json.dumps(given["tools"], indent=4)
        variables.update({k: v for k, v in given.items() if k not in variables})
        cases[name] = variables
    write("cases.json", cases)
    for path in sorted(glob.glob("jinja/*.jinja")):
        template = environment.from_string(open(path, newline="").read())
        results = []
        for name, variables in cases.items():
            result = {"case": name}
            try:
                result["output"] = template.render(**json.loads(json.dumps(variables)))
            except Raised as e:
                result["raised"] = str(e)
            except Exception as e:
                result["error"] = f"{type(e).__name__}: {e}"
            results.append(result)
        write(path.removesuffix("jinja") + "json", results)


def write(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


main()
