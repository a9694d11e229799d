"""Writes what Jinja2 makes of every jinja/*.jinja for every conversation, in the environment that
transformers gives chat templates, to jinja/*.expected; and the outputs of jinja/snippets.json.
Run in testdata/prompt with Jinja2 3.1."""
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


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals["raise_exception"] = raise_exception
environment.globals["strftime_now"] = lambda form: NOW.strftime(form)


def message(m):
    out = {"role": m["role"], "content": m["content"]}
    if m.get("thinking"):
        out["reasoning_content"] = out["thinking"] = m["thinking"]
    if m.get("tool_calls"):
        out["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in m["tool_calls"]
        ]
    if m.get("tool_name"):
        out["name"] = m["tool_name"]
    if m.get("tool_call_id"):
        out["tool_call_id"] = m["tool_call_id"]
    return out


def main():
    conversations = json.load(open("conversations.json"))
    for path in sorted(glob.glob("jinja/*.jinja")):
        template = environment.from_string(open(path).read())
        out = ""
        for name in sorted(conversations):
            c = conversations[name]
            try:
                text = template.render(
                    messages=[message(m) for m in c["messages"]],
                    tools=c.get("tools"),
                    documents=None,
                    add_generation_prompt=True,
                    bos_token="<s>",
                    eos_token="</s>",
                    **({"enable_thinking": c["think"]} if "think" in c else {}),
                )
            except jinja2.exceptions.TemplateError as e:
                text = "!!! " + str(e)
            out += f"=== {name}\n{text}\n"
        open(path.removesuffix("jinja") + "expected", "w").write(out)

    snippets = json.load(open("jinja/snippets.json"))
    for case in snippets["cases"]:
        case.pop("output", None), case.pop("error", None)
        try:
            case["output"] = environment.from_string(case["template"]).render(**snippets["data"])
        except Exception as e:
            case["error"] = f"{type(e).__name__}: {e}"
    json.dump(snippets, open("jinja/snippets.json", "w"), indent=1, ensure_ascii=False)


main()
