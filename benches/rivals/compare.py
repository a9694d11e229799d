#!/usr/bin/env python3
"""Compile SmolLM2-135M with every preset and hold it against llama.cpp, all in one run.

usage: compare.py DIR [presets|numbers|sources]...     (DIR as setup.sh made it; default: all three)

presets   each preset: the tensor types, and the bytes, of llama-quantize's file; perplexity beside
          llama.cpp's own of its own file; what `mdl run` answers
numbers   F16: the same greedy tokens for at least five prompts (a sixth may part where the two best
          logits are all but equal), and the divergence of next-token distributions
sources   three shards give the same bytes as one; float32 weights, which differ, the same types

Exits 1 when a check fails. Build first: cargo build --release --bins --examples
"""
import json, os, re, subprocess, sys
import numpy as np
from gguf import GGUFReader

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
MDL, EVALUATE = (os.path.join(ROOT, "target", "release", p) for p in ("mdl", "examples/evaluate"))
TEXT = os.path.join(ROOT, "testdata", "storyteller", "heldout.txt")
GOLDEN = json.load(open(os.path.join(ROOT, "testdata", "golden", "types", "smollm2-135m.json")))
PRESETS = "f16 bf16 q8_0 q6_K q5_K_M q5_K_S q5_1 q5_0 q4_K_M q4_K_S q4_1 q4_0 iq4_nl iq4_xs q3_K_L q3_K_M q3_K_S q2_K".split()
PROMPTS = ["The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n",
           "The three laws of thermodynamics are", "Dear Sir or Madam,\n\nI am writing to", "1, 2, 3, 5, 8,"]
QUESTION = "Why is the sky blue?"

work = os.path.abspath(sys.argv[1])
REFERENCE = os.path.join(work, "bin", "reference")
parts = sys.argv[2:] or ["presets", "numbers", "sources"]
os.makedirs(os.path.join(work, "out"), exist_ok=True)
failed = []


def path(*names):
    return os.path.join(work, *names)


def out(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def check(holds, what):
    if not holds:
        failed.append(what)
    return "yes" if holds else "NO"


def build(preset, source="smollm2"):
    target = path("out", f"{source}-{preset}.gguf")
    out(MDL, "--store", path("out", "store"), "--progress", "none", "build", "-q", preset, "--emit", "gguf", "-o", target, path(source))
    return target


def tensors(file):
    return {t.name: t for t in GGUFReader(file).tensors}


def rival_perplexity(file):
    done = subprocess.run([path("bin", "llama-perplexity"), "-m", file, "-f", TEXT, "-c", "512", "-t", "2"], capture_output=True, text=True)
    return float(re.search(r"Final estimate: PPL = ([\d.]+)", done.stdout + done.stderr).group(1))


def perplexity(file):
    return json.loads(out(MDL, "--progress", "none", "--threads", "2", "eval", file, "-f", TEXT, "--json"))["perplexity"]["value"]


def fluent(answer):
    """A sentence and no loop: what the model knows at a size of 135M is not the point."""
    words = answer.split()
    return len(words) >= 8 and len(set(words)) >= 0.6 * len(words) and answer.isascii()


def presets():
    f16 = build("f16")
    print(f"{'preset':8} {'MB':>6} {'types':>5} {'bytes':>5} {'mdl ppl':>9} {'llama.cpp':>9} {'ratio':>7}  answer")
    for preset in PRESETS:
        ours = build(preset)
        theirs = path("out", f"llama.cpp-{preset}.gguf")
        out(path("bin", "llama-quantize"), "--allow-requantize", f16, theirs, preset.upper(), "2")
        a, b = tensors(ours), tensors(theirs)
        types = {n: t.tensor_type.name for n, t in a.items()}
        same = types == {n: t.tensor_type.name for n, t in b.items()} and types == GOLDEN.get(preset.upper(), types)
        equal = same and all(np.array_equal(a[n].data, b[n].data) for n in a)
        mine, rival = perplexity(ours), rival_perplexity(theirs)
        out(MDL, "--store", path("out", "store"), "--progress", "none", "build", "-q", preset, "-t", f"smollm2:{preset}", path("smollm2"))
        answer = out(MDL, "--store", path("out", "store"), "run", "--set", "temperature=0", "--set", "num_predict=24", f"smollm2:{preset}", QUESTION)
        close = abs(mine / rival - 1) < 0.005
        check(close, f"{preset}: perplexity {mine} and {rival}")
        check(fluent(answer), f"{preset}: answers {answer!r}")
        print(f"{preset:8} {os.path.getsize(ours) / 1e6:6.1f} {check(same, preset + ': types'):>5} {check(equal, preset + ': bytes'):>5} "
              f"{mine:9.4f} {rival:9.4f} {mine / rival:7.4f}  {' '.join(answer.split())[:60]}", flush=True)


def logits(program, model, ids, name):
    open(path("out", "ids.txt"), "w").write(" ".join(ids))
    out(program, "logits", model, path("out", "ids.txt"), path("out", name))
    return np.fromfile(path("out", name), "<f4").reshape(len(ids), -1).astype(np.float64)


def numbers():
    f16, whole = build("f16"), 0
    for prompt in PROMPTS:
        open(path("out", "prompt.txt"), "w").write(prompt)
        ids = out(EVALUATE, "tokenize", f16, path("out", "prompt.txt")).split()
        open(path("out", "ids.txt"), "w").write(" ".join(ids))
        mine = out(EVALUATE, "greedy", f16, "64", path("out", "ids.txt")).split()
        rival = out(REFERENCE, "greedy", f16, "64", path("out", "ids.txt")).split()
        agree = next((i for i, (x, y) in enumerate(zip(mine, rival)) if x != y), len(mine))
        line = f"greedy: {agree} of {len(rival)} tokens equal  {prompt!r}"
        if agree < 64:
            last = np.sort(logits(EVALUATE, f16, ids + mine[:agree], "part.f32")[-1])
            line += f"; there the two best logits are {last[-1] - last[-2]:.4f} apart"
            check(last[-1] - last[-2] < 0.02, f"greedy tokens of {prompt!r}")
        whole += agree == 64
        print(line)
    check(whole >= 5, f"only {whole} prompts with the same 64 tokens")
    ids = out(EVALUATE, "tokenize", f16, TEXT).split()[:1000]
    a, b = logits(EVALUATE, f16, ids, "mdl.f32"), logits(REFERENCE, f16, ids, "llama.f32")
    logp, logq = (x - x.max(1, keepdims=True) for x in (b, a))
    logp, logq = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logp, logq))
    divergence = (np.exp(logp) * (logp - logq)).sum(1).mean()
    top = (a.argmax(1) == b.argmax(1)).mean()
    print(f"F16, {len(ids)} tokens: mean KL divergence {divergence:.2e}, top token equal {top:.4f}")
    check(divergence < 1e-4, f"KL divergence {divergence}")


def sources():
    one = tensors(build("q4_K_M"))
    for source in ("smollm2-sharded", "smollm2-f32"):
        other = tensors(build("q4_K_M", source))
        same = {n: t.tensor_type for n, t in one.items()} == {n: t.tensor_type for n, t in other.items()}
        equal = same and all(np.array_equal(one[n].data, other[n].data) for n in one)
        print(f"{source}: the same types: {check(same, source + ': types')}, the same bytes: {'yes' if equal else 'no'}")
        check(equal or source == "smollm2-f32", source + ": bytes")


for part in parts:
    {"presets": presets, "numbers": numbers, "sources": sources}[part]()
print("\n".join(["", "FAILED:"] + failed) if failed else "\nall checks hold")
sys.exit(1 if failed else 0)
