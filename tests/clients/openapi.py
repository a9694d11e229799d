"""What the API's description allows, and what it does not, sent to a server: no answer is a failure of the
server, and each is as described.

    openapi.py URL [EXAMPLES [MORE ARGUMENTS OF schemathesis...]]
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import schemathesis

# The model of the server's store.
MODEL = "story"


# Routes that change the store: there the model goes by other names, so that it stays.
CHANGES = ("/api/create", "/api/delete", "/api/copy")

# What a conversation is, in each API that knows one: almost any random one is refused.
MESSAGES = {"messages": [{"role": "user", "content": "Emma"}]}
CONVERSATIONS = {
    "/api/chat": MESSAGES,
    "/v1/chat/completions": MESSAGES,
    "/v1/messages": {**MESSAGES, "max_tokens": 3},
    "/v1/messages/count_tokens": MESSAGES,
    "/v1/responses": {"input": "Emma"},
}


@schemathesis.hook
def map_body(context, body):
    """Most bodies name a model that is there: else all that they find out is that another is not."""
    if not isinstance(body, dict):
        return body
    # What is random stays random, and what fails fails again.
    size = len(repr(body))
    chance = size % 4
    conversation = CONVERSATIONS.get(context.operation.path)
    if conversation and chance > 1:
        # With one other field of the random ones: more would not all be right.
        others = sorted(body.keys() - conversation.keys() - {"model", "stream"})
        kept = {"model", "stream", *others[size % len(others) :][:1]} if others else {"model", "stream"}
        body = {**{n: body[n] for n in kept if n in body}, "model": MODEL, **conversation}
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
