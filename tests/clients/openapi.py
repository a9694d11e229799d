"""What the API's description allows, and what it does not, sent to a server: no answer is a failure of the
server, and each is as described.

    openapi.py URL [EXAMPLES [MORE ARGUMENTS OF schemathesis...]]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import schemathesis

# The model of the server's store.
MODEL = "story"


# Routes that change the store: there the model goes by other names, so that it stays.
CHANGES = ("/api/create", "/api/delete", "/api/copy")

# What may be asked of each route: almost anything random is refused.
MESSAGES = {"model": MODEL, "messages": [{"role": "user", "content": "Emma"}]}
PROPER = {
    "/api/chat": MESSAGES,
    "/api/create": {"model": "another", "from": MODEL},
    "/api/delete": {"model": "another"},
    "/api/generate": {"model": MODEL, "prompt": "Emma"},
    "/v1/chat/completions": MESSAGES,
    "/v1/messages": {**MESSAGES, "max_tokens": 3},
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/responses": {"model": MODEL, "input": "Emma"},
}


@schemathesis.hook
def map_body(context, body):
    """Most bodies name a model that is there: else all that they find out is that another is not."""
    if not isinstance(body, dict):
        return body
    # What is random stays random, and what fails fails again.
    size = len(repr(body))
    chance = size % 4
    proper = PROPER.get(context.operation.path)
    if proper and chance > 1:
        # With one other field of the random ones: more would not all be right.
        others = sorted(body.keys() - proper.keys() - {"stream"})
        kept = {"stream", *others[size % max(len(others), 1) :][:1]}
        body = {**{n: body[n] for n in kept if n in body}, **proper}
    if context.operation.path in CHANGES:
        sources = {"from": MODEL, "source": MODEL}
        for name in ("model", "name", "destination"):
            # Names that answers have told are tried, too.
            if isinstance(body.get(name), str) and (chance or MODEL in body[name].lower()):
                body[name] = "another"
    else:
        sources = {"model": MODEL}
    if chance:
        body.update({n: m for n, m in sources.items() if isinstance(body.get(n), str)})
    # An answer of any length would take any time.
    if context.operation.path in ("/api/chat", "/api/generate") and isinstance(body.get("options") or {}, dict):
        body["options"] = {**(body.get("options") or {}), "num_predict": chance + 1}
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if isinstance(body.get(name), int) and body[name] > 8:
            body[name] = 8
    return body


@schemathesis.check
def each_line_is_as_described(ctx, response, case):
    """The description of a stream of lines is that of a line, or of an error after the first one."""
    if not response.headers.get("content-type", [""])[0].startswith("application/x-ndjson"):
        return
    described = case.operation.definition.raw["responses"][str(response.status_code)]["content"]
    schema = {**described["application/x-ndjson"]["schema"], "components": case.operation.schema.raw_schema["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    lines = response.content.splitlines()
    assert lines, "a stream without a line"
    for line in lines:
        wrong = [f"{e.json_path}: {e.message}" for e in validator.iter_errors(json.loads(line))]
        assert not wrong, f"{line}: {wrong}"


def main():
    url, *rest = sys.argv[1:]
    examples, more = (rest[0], rest[1:]) if rest else ("25", [])
    here = Path(__file__).resolve()
    # It keeps what it has seen in the directory where it runs.
    directory = tempfile.TemporaryDirectory()
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(here.with_name("openapi.toml"))]
    command += ["run", f"{url}/openapi.json", "--max-examples", examples, "--workers", "2", "--no-color", *more]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": here.stem, "PYTHONPATH": str(here.parent)}
    sys.exit(subprocess.run(command, env=environment, cwd=directory.name, check=False).returncode)


if __name__ == "__main__":
    main()
