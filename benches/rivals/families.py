#!/usr/bin/env python3
"""Every family's small checkpoint, compiled by mdl to F32 and run by llama.cpp: the largest difference between its logits
and those of `transformers`, over the largest logit. (llama.cpp keeps keys and values in F16.)

usage: families.py MDL DIR        DIR is as setup.sh made it
Exits with 1 where one is 1 % apart or more.
"""

import array
import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile

LIMIT = 0.01

# What llama.cpp does not do, whoever converts.
NOT_IN_LLAMA_CPP = {
    "mistral": "its window",
    "phi4-mini": "the factors of a short context: the tool's is long",
    "gemma2": "a query_pre_attn_scalar that is not the usual one",
    "gemma3": "a query_pre_attn_scalar that is not the usual one",
}


def floats(data: bytes) -> array.array:
    values = array.array("f")
    values.frombytes(data)
    return values


def main() -> int:
    mdl, work = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    root = pathlib.Path(__file__).resolve().parents[2] / "testdata" / "families"
    failed, run = [], 0
    with tempfile.TemporaryDirectory() as out:
        for folder in sorted(root.iterdir()):
            if not (folder / "reference.json").is_file():
                continue
            reference = json.loads((folder / "reference.json").read_text())
            if "logits" not in reference:
                continue
            modelfile, gguf, ids, raw = (f"{out}/{name}" for name in ("Modelfile", "m.gguf", "ids", "logits"))
            pathlib.Path(modelfile).write_text(f"FROM {folder}\n")
            build = [mdl, "--progress", "none", "build", "-q", "f32", "--emit", "gguf", "-o", gguf, modelfile]
            subprocess.run(build, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            pathlib.Path(ids).write_text(" ".join(map(str, reference["prompt"])))
            loaded = subprocess.run([work / "bin" / "reference", "logits", gguf, ids, raw], capture_output=True, text=True)
            if loaded.returncode != 0:
                failed.append(folder.name)
                print(f"{folder.name:24} llama.cpp refuses it: {loaded.stderr.strip().splitlines()[-1:]}")
                continue
            rows, vocabulary = reference["shape"]
            found, expected = floats(pathlib.Path(raw).read_bytes()), floats(base64.b64decode(reference["logits"]))
            largest = max(map(abs, expected))
            worst = max(
                abs(found[position * vocabulary + i] - expected[row * vocabulary + i])
                for row, position in enumerate(reference["positions"])
                for i in range(vocabulary)
            )
            known = NOT_IN_LLAMA_CPP.get(folder.name)
            run += 1
            print(f"{folder.name:24} {worst / largest:9.6f}" + (f"   not in llama.cpp: {known}" if known else ""))
            if worst / largest >= LIMIT and not known:
                failed.append(folder.name)
    print(f"{run} families" + (f"; FAILED: {', '.join(failed)}" if failed else ", each within the limit but where it says why not"))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
