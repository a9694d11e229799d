#!/usr/bin/env python3
"""Many clients at once: mdl serve beside llama-server, the same GGUF file, slots and threads, in turn.

Each client streams answers to its own prompts with its own seeds, one after the other, until the time is over.
For mdl every answer is compared with what the same request gave alone, so that no client reads another's text,
and memory is read after the warm-up and at the end.

usage: serve.py DIR [--preset q4_K_M] [--clients 64] [--slots 16] [--seconds 120] [--rounds 1]
DIR is as setup.sh made it, with bin/llama-server (setup.sh DIR server).
"""
import argparse
import asyncio
import json
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PREDICT = 64
CONTEXT = 1024
WORDS = """river mountain clock garden winter letter window captain engine forest violin market shadow
harbor candle bridge teacher island mirror storm pocket orchard railway lantern sailor""".split()


def prompt(client: int, turn: int) -> str:
    """A prompt of 30 to 300 words that is the client's own."""
    rng = random.Random(1000 * client + turn)
    words = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(30, 300)))
    return f"Client {client} keeps a notebook. It says: {words}. The story about it begins:\n"


async def http(port: int, path: str, body: dict):
    """The lines of a streamed answer, each with the time it came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + data)
    try:
        status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        # Lines of JSON hold no bare newline, so chunk sizes are the lines that do not begin with { or data.
        async for line in reader:
            line = line.strip()
            if line.startswith(b"data: "):
                line = line[6:]
            if line.startswith(b"{"):
                yield status, time.monotonic(), json.loads(line)
    finally:
        writer.close()


class Mdl:
    name = "mdl"

    def request(self, text, seed):
        options = {"seed": seed, "temperature": 0.8, "num_predict": PREDICT, "num_ctx": CONTEXT}
        return "/api/generate", {"model": "smollm2", "prompt": text, "raw": True, "options": options}

    def read(self, value):
        return value.get("response", ""), value.get("eval_count") if value.get("done") else None


class Rival:
    name = "llama-server"

    def request(self, text, seed):
        return "/completion", {"prompt": text, "n_predict": PREDICT, "seed": seed, "temperature": 0.8, "stream": True}

    def read(self, value):
        return value.get("content", ""), value.get("tokens_predicted") if value.get("stop") else None


async def answer(server, port, text, seed):
    path, body = server.request(text, seed)
    start = time.monotonic()
    first, out, tokens = None, [], 0
    async for status, at, value in http(port, path, body):
        if status != 200 or "error" in value:
            raise RuntimeError(f"{status} {value}")
        piece, count = server.read(value)
        if piece and first is None:
            first = at - start
        out.append(piece)
        tokens = count or tokens
    return first, "".join(out), tokens


async def load(server, port, clients, seconds):
    end = time.monotonic() + seconds
    firsts, errors, answers = [], [], {}
    tokens = 0

    async def client(number):
        nonlocal tokens
        turn = 0
        while time.monotonic() < end:
            try:
                first, text, count = await answer(server, port, prompt(number, turn), number * 100 + turn)
            except Exception as error:
                errors.append(repr(error))
                await asyncio.sleep(0.1)
                continue
            if first is not None:
                firsts.append(first)
            answers[number, turn] = text
            tokens += count
            turn += 1

    start = time.monotonic()
    await asyncio.gather(*(client(n) for n in range(clients)))
    return tokens / (time.monotonic() - start), firsts, errors, answers


def memory(pid):
    """Anonymous memory in MiB."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return sum(int(re.search(rf"{key}:\s+(\d+)", text)[1]) for key in ("RssAnon", "VmSwap")) / 1024


def start(command, ready, log):
    process = subprocess.Popen(command, stderr=subprocess.STDOUT, stdout=open(log, "wb"))
    for _ in range(600):
        time.sleep(0.1)
        if re.search(ready, pathlib.Path(log).read_text(errors="replace")):
            return process
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended: see {log}")
    sys.exit(f"{command[0]} is not ready: see {log}")


def report(name, rate, firsts, errors):
    quantiles = statistics.quantiles(firsts, n=100)
    print(f"{name:13} {rate:8.1f} tokens/s   first token p50 {quantiles[49]:6.2f} s  p99 {quantiles[98]:6.2f} s   "
          f"{len(firsts)} answers  {len(errors)} errors", flush=True)
    if errors:
        print("  ", errors[0])


async def measure(args, directory):
    out = directory / "out"
    out.mkdir(exist_ok=True)
    store, model = out / "serve-store", out / f"smollm2-{args.preset}.gguf"
    mdl = ROOT / "target/release/mdl"
    build = [mdl, "--store", store, "--progress", "none", "build", "-q", args.preset]
    if not model.exists():
        subprocess.run([*build, "--emit", "gguf", "-o", model, directory / "smollm2"], check=True)
    subprocess.run([*build, "-t", "smollm2", directory / "smollm2"], check=True, stdout=subprocess.DEVNULL)
    rates = {Mdl.name: [], Rival.name: []}
    failed = False
    for _ in range(args.rounds):
        process = start([mdl, "--store", store, "--threads", "2", "serve", "--host", "127.0.0.1:18400", "--parallel",
                         str(args.slots), "--context-length", str(CONTEXT)], r"listening on", out / "mdl-serve.log")
        try:
            server = Mdl()
            await load(server, 18400, args.clients, args.seconds / 6)
            warm = memory(process.pid)
            rate, firsts, errors, answers = await load(server, 18400, args.clients, args.seconds)
            end = memory(process.pid)
            report(server.name, rate, firsts, errors)
            rates[server.name].append(rate)
            chosen = random.Random(1).sample(sorted(answers), min(args.check, len(answers)))
            wrong = 0
            for number, turn in chosen:
                _, alone, _ = await answer(server, 18400, prompt(number, turn), number * 100 + turn)
                wrong += alone != answers[number, turn]
            print(f"  {len(chosen)} answers asked again alone: {wrong} differ; anonymous memory {warm:.0f} MiB after the "
                  f"warm-up, {end:.0f} MiB at the end ({100 * (end / warm - 1):+.1f} %)", flush=True)
            failed |= bool(wrong or errors or end > warm * 1.05)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
        process = start([directory / "bin/llama-server", "-m", model, "-t", "2", "-tb", "2", "-np", str(args.slots), "-c",
                         str(CONTEXT * args.slots), "--port", "18401", "--no-webui"], r"server is listening|listening on", out / "llama-server.log")
        try:
            server = Rival()
            await load(server, 18401, args.clients, args.seconds / 6)
            rate, firsts, errors, _ = await load(server, 18401, args.clients, args.seconds)
            report(server.name, rate, firsts, errors)
            rates[server.name].append(rate)
        finally:
            process.kill()
            process.wait()
    ratio = statistics.median(rates[Mdl.name]) / statistics.median(rates[Rival.name])
    print(f"throughput, mdl / llama-server: {ratio:.2f} ({args.preset}, {args.clients} clients, {args.slots} slots, 2 threads)")
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--preset", default="q4_K_M")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--check", type=int, default=64)
    args = parser.parse_args()
    sys.exit(asyncio.run(measure(args, args.dir.resolve())))
