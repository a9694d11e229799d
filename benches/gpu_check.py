#!/usr/bin/env python3
"""What can be said of mdl on a GPU only where there is one: it computes what the CPU does, and how fast.

usage: gpu_check.py MDL [--device cuda] [--shape 1b|8b] [--presets q4_K_M,q8_0] [--folder DIR] [--quick]

Needs Python's standard library, the binary, and this repository's `testdata/` and `benches/`: no network and no Rust. Prints one
table; fails when something of it does not hold. With compute-sanitizer on the PATH, its checks of memory, races and
what is read before it is written run over a prompt and an answer.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
STORY = ROOT / "testdata" / "storyteller"
# As synthetic_model.py takes them.
SHAPES = {
    "1b": "--hidden 2048 --layers 16 --heads 32 --kv-heads 8 --ffn 8192 --vocab 2048",
    "8b": "--hidden 4096 --layers 32 --heads 32 --kv-heads 8 --ffn 14336 --vocab 2048",
}
PRESETS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_K", "q3_K_M", "q4_K_M", "q5_K_M", "q6_K", "iq4_nl", "iq4_xs", "f16",
           "bf16", "f32")
# Of the mean KL divergence of the GPU's predictions from the CPU's, in nats.
CLOSE = 1e-4

parser = argparse.ArgumentParser(usage=__doc__)
parser.add_argument("mdl", type=pathlib.Path)
parser.add_argument("--device", default="cuda")
parser.add_argument("--shape", choices=SHAPES, default="1b")
parser.add_argument("--presets", default="q4_K_M,q8_0", help="of what is measured")
parser.add_argument("--folder", type=pathlib.Path, help="where models are kept from one run to the next")
parser.add_argument("--quick", action="store_true", help="no speed")
O = parser.parse_args()

work = O.folder or pathlib.Path(tempfile.mkdtemp(prefix="mdl-gpu-"))
work.mkdir(parents=True, exist_ok=True)
failures = []


def mdl(*arguments, before=()):
    command = [*before, O.mdl.resolve(), "--store", work / "store", "--progress", "none", *arguments]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True)


def line(what, found, holds=True):
    print(f"| {what} | {found} | {'' if holds else 'FAILS'} |", flush=True)
    if not holds:
        failures.append(what)


def checked(done, what):
    if done.returncode:
        line(what, (done.stderr.strip().splitlines() or ["no output"])[0], False)
    return done.returncode == 0


print("| what | found | |\n| --- | --- | --- |")
for preset in PRESETS:
    name = f"story:{preset.lower()}"
    if not checked(mdl("build", "-q", preset, "-t", name, STORY / "Modelfile"), f"build {preset}"):
        continue
    text = ["--raw", "--set", "temperature=0", "--set", "num_predict=64", name, "Once upon a time"]
    gpu, cpu = (mdl("run", "--device", device, *text) for device in (O.device, "cpu"))
    if checked(gpu, f"{preset}: run") and checked(cpu, f"{preset}: run on the CPU"):
        line(f"{preset}: a story", "that of the CPU" if gpu.stdout == cpu.stdout else f"{gpu.stdout!r}, not {cpu.stdout!r}",
             gpu.stdout == cpu.stdout)
    done = mdl("eval", name, "--device", O.device, "--against", name, "--against-device", "cpu", "--ctx", "256", "--json",
               "-f", STORY / "heldout.txt")
    if checked(done, f"{preset}: eval"):
        divergence = json.loads(done.stdout)["kl_divergence"]["value"]
        line(f"{preset}: KL divergence from the CPU", f"{divergence:.2e} nats", divergence < CLOSE)

sanitizer = shutil.which("compute-sanitizer")
for tool in ("memcheck", "racecheck", "initcheck") if sanitizer else ():
    text = ["--raw", "--set", "num_predict=4", "story:q4_k_m", "Once upon a time there was a small " * 12]
    done = mdl("run", "--device", O.device, *text, before=[sanitizer, "--tool", tool, "--error-exitcode", "9"])
    line(f"compute-sanitizer {tool}", (done.stdout + done.stderr).strip().splitlines()[-1][:100], done.returncode == 0)
if not sanitizer:
    line("compute-sanitizer", "not on the PATH: left out")

if not O.quick:
    checkpoint = work / O.shape
    if not (checkpoint / "model.safetensors").exists():
        maker = [sys.executable, ROOT / "benches" / "synthetic_model.py", checkpoint, *SHAPES[O.shape].split()]
        subprocess.run([str(c) for c in maker], check=True, stdout=subprocess.DEVNULL)
    for preset in O.presets.split(","):
        name = f"{O.shape}:{preset.lower()}"
        if not checked(mdl("build", "-q", preset, "-t", name, checkpoint), f"build {name}"):
            continue
        for arguments in (["-p", "2048", "-n", "128"], ["-p", "0", "-n", "64", "--sequences", "32"]):
            done = mdl("bench", name, "--device", O.device, "--batch", "2048", *arguments, "-r", "3", "--json")
            if not checked(done, f"{name}: bench {' '.join(arguments)}"):
                continue
            result = json.loads(done.stdout)["results"][0]
            for test in result["tests"]:
                rate = test["tokens_per_second"]["median"]
                what = f"{name}: {test['kind']} {test['tokens']} of {test['sequences']}"
                read = f", {rate * result['bytes'] / 1e9:.0f} GB/s of weights" if (test["kind"], test["sequences"]) == ("decode", 1) else ""
                line(what, f"{rate:.1f} tokens/s{read}")
if not O.folder:
    shutil.rmtree(work, ignore_errors=True)
sys.exit(f"{len(failures)} do not hold" if failures else 0)
