#!/usr/bin/env python3
"""Kills `mdl pull` of a large model at random moments, resumes it, and checks that no byte that was recorded as
verified is sent a second time and that the result is right.

usage: resume.py MDL DIR [--megabytes 1000] [--kills 20] [--seed 1]
"""

import argparse
import hashlib
import http.server
import json
import pathlib
import random
import shutil
import subprocess
import threading
import time

parser = argparse.ArgumentParser()
parser.add_argument("mdl")
parser.add_argument("dir", type=pathlib.Path)
parser.add_argument("--megabytes", type=int, default=1000)
parser.add_argument("--kills", type=int, default=20)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()
chance = random.Random(arguments.seed)
size = arguments.megabytes * 1_000_000
part = min(max(size // 16, 100_000_000), 1_000_000_000)
# Bytes a second of one connection, so that a pull takes about two seconds for each kill.
rate = max(size // (2 * arguments.kills) // max(size // part, 1), 1_000_000)

arguments.dir.mkdir(parents=True, exist_ok=True)
weights = arguments.dir / "weights"
block = chance.randbytes(1_000_000)
sha = hashlib.sha256()
with weights.open("wb") as file:
    for i in range(arguments.megabytes):
        piece = i.to_bytes(8, "little") + block[8:]
        file.write(piece)
        sha.update(piece)
digest = "sha256:" + sha.hexdigest()
config = b'{"model_format":"gguf"}\n'
config_digest = "sha256:" + hashlib.sha256(config).hexdigest()
manifest = json.dumps({
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config_digest, "size": len(config)},
    "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size}],
}).encode()
asked = []


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if "/referrers/" in self.path or "/manifests/sha256-" in self.path:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if "/manifests/" in self.path or config_digest in self.path:
            body = manifest if "/manifests/" in self.path else config
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        first, last = int(first), int(last)
        asked.append(first)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        try:
            with weights.open("rb") as file:
                file.seek(first)
                left, start, sent = last - first + 1, time.monotonic(), 0
                while left > 0:
                    piece = file.read(min(left, 1 << 16))
                    self.wfile.write(piece)
                    left -= len(piece)
                    sent += len(piece)
                    time.sleep(max(0, sent / rate - (time.monotonic() - start)))
        except OSError:
            self.close_connection = True


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
store = arguments.dir / "store"
shutil.rmtree(store, ignore_errors=True)
name = f"127.0.0.1:{server.server_port}/me/big"
command = [arguments.mdl, "--store", store, "--progress", "none", "pull", "--insecure", name]
record = store / "mdl" / (digest.removeprefix("sha256:") + ".partial")


def recorded():
    try:
        return json.loads(record.read_bytes())["done"]
    except (OSError, ValueError):
        return []


def check(before):
    again = 0
    for first in asked:
        i = first // part
        if i < len(before):
            again += max(0, i * part + before[i] - first)
    asked.clear()
    return again


twice = 0
kills = 0
for _ in range(arguments.kills):
    before = recorded()
    child = subprocess.Popen(command)
    try:
        child.wait(timeout=chance.uniform(0.5, 4.5))
        break
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        kills += 1
    twice += check(before)
    print(f"kill {kills}: {sum(recorded()) / 1e6:.0f} MB recorded, {twice} verified bytes came twice", flush=True)
before = recorded()
subprocess.run(command, check=True)
twice += check(before)
subprocess.run([arguments.mdl, "--store", store, "verify"], check=True)
print(f"{kills} kills of a pull of {arguments.megabytes} MB: {twice} verified bytes came twice, the result is right")
raise SystemExit(twice != 0)
