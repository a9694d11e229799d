#!/usr/bin/env python3
"""The second turn of a long chat: what is computed again, and how long it takes.

usage: prefix.py MDL STORE MODEL     MDL is the binary; MODEL is in STORE and knows 4,096 tokens of context or more
"""
import json
import re
import subprocess
import sys
import urllib.request


def chat(url, model, messages):
    body = {"model": model, "messages": messages, "stream": False,
            "options": {"num_predict": 32, "temperature": 0, "num_ctx": 4096}}
    request = urllib.request.Request(f"{url}/api/chat", json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request))


def main(mdl, store, model):
    server = subprocess.Popen([mdl, "--store", store, "--threads", "2", "serve", "--host", "127.0.0.1:0"],
                              stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if found := re.search(r"listening on (\S+)", line):
                url = found[1]
                break
        else:
            sys.exit("the server did not start")
        text = "The keeper of the lighthouse wrote in the log that the sea was calm and the lamp was lit. "
        messages = [{"role": "user", "content": text * 95 + "What did the keeper write?"}]
        first = chat(url, model, messages)
        messages += [first["message"], {"role": "user", "content": "And what was lit?"}]
        second = chat(url, model, messages)
        fresh = chat(url, model, [{"role": "system", "content": "Be brief."}, *messages])
        for name, answer in (("first turn", first), ("second turn", second), ("the same, nothing shared", fresh)):
            print(f"{name:26} {answer['prompt_eval_count']:5} tokens computed in {answer['prompt_eval_duration'] / 1e6:8.1f} ms")
        # What is new: the end of the last answer, the question, and what is around them.
        assert second["prompt_eval_count"] < 40 < first["prompt_eval_count"], "the first turn was computed again"
        assert second["prompt_eval_duration"] * 5 < first["prompt_eval_duration"]
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
