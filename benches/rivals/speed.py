#!/usr/bin/env python3
"""mdl beside llama.cpp and ik_llama.cpp: the same files, threads and tokens, in turn, several rounds, medians.

usage: speed.py DIR [GROUP...] [--rounds 5] [--threads 2] [--presets q4_0,...] [--large-presets q4_K_M,q8_0]
                [--context 4096] [--level avx2] [--mdl PATH] [--python PATH] [--json FILE] [--markdown]

DIR is as setup.sh made it; what is not there (ik_llama.cpp) is left out. With `--level avx2`, mdl uses no more than
that, and is beside the llama.cpp that `setup.sh DIR avx2` built; the groups that need only llama-bench then. Groups,
all by default:

small      SmolLM2-135M: prefill 512 and decode 128
large      the same of a synthetic Llama of 1.1 billion parameters (2048 wide, 16 blocks)
long       prefill 4096; the rivals with flash attention
depth      decode 64 after 4096 tokens; the rivals with flash attention
batch      decode 64 of 8 sequences together
first      seconds from the start of the process to its end with one token, after a prompt of some 16
memory     peak of the process (VmHWM) and of its own memory (RssAnon), the same context
quantize   seconds from an F16 GGUF to each preset, beside llama-quantize
convert    seconds from Safetensors BF16 to q4_K_M, beside convert_hf_to_gguf.py and llama-quantize

In a ratio more than 1 is better for mdl, whatever the unit. A row without a rival's figure of the same run is left out.
Build first: cargo build --release --bin mdl
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GROUPS = ("small", "large", "long", "depth", "batch", "first", "memory", "quantize", "convert")
# What llama-bench and llama-batched-bench measure.
BENCH_GROUPS = GROUPS[:5]
PROMPT = "The capital of France is a city on the river that runs through it, and"
LARGE = "--hidden 2048 --layers 16 --heads 32 --kv-heads 8 --ffn 8192 --vocab 2048".split()
RIVALS = ("llama.cpp", "ik_llama.cpp")


def arguments():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("groups", nargs="*", metavar="GROUP")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--presets", default="q4_0,q4_K_M,q5_K_M,q6_K,q8_0,f16,bf16")
    parser.add_argument("--large-presets", default="q4_K_M,q8_0")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--level", choices=["avx2"])
    parser.add_argument("--mdl", type=pathlib.Path, default=ROOT / "target" / "release" / "mdl")
    parser.add_argument("--python", default=sys.executable, help="runs convert_hf_to_gguf.py")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    options.groups = options.groups or list(GROUPS if not options.level else BENCH_GROUPS)
    if options.level and not set(options.groups) <= set(BENCH_GROUPS):
        parser.error(f"with --level: {', '.join(BENCH_GROUPS)}")
    options.dir = options.dir.resolve()
    return options


O = arguments()
OUT = O.dir / "out"
OUT.mkdir(exist_ok=True)
STORE = OUT / "store"
BIN = {"llama.cpp": O.dir / "bin", "ik_llama.cpp": O.dir / "ik" / "bin"}
if O.level:
    os.environ["MDL_LEVEL"] = O.level
    BIN = {"llama.cpp": O.dir / O.level / "bin", "ik_llama.cpp": O.dir / O.level / "ik" / "bin"}
# ik_llama.cpp repacks weights, and has flash attention, only when it is told to.
FLAGS = {"llama.cpp": [], "ik_llama.cpp": ["-rtr", "1", "-fa", "1"]}
MDL = [str(O.mdl), "--store", str(STORE), "--progress", "none", "--threads", str(O.threads)]


def run(*command, **kwargs):
    """The standard output of a command that succeeds."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
    done = subprocess.run([str(c) for c in command], text=True, stdin=subprocess.DEVNULL, **pipes)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def model(source, preset):
    """The GGUF file of a checkpoint in a preset, which mdl builds once; every program reads this file."""
    path = OUT / f"{source.name}-{preset}.gguf"
    if not path.exists():
        run(*MDL, "build", "-q", preset, "--emit", "gguf", "-o", path, source)
    return path


def small():
    return O.dir / "smollm2"


def large():
    path = O.dir / "large"
    if not (path / "model.safetensors").exists():
        run(sys.executable, ROOT / "benches" / "synthetic_model.py", path, *LARGE)
    return path


def stored(path):
    """The name in the store of a GGUF file."""
    name = f"speed-{path.stem.lower()}"
    modelfile = OUT / f"{path.stem}.Modelfile"
    modelfile.write_text(f"FROM {path}\n")
    run(*MDL, "build", "-t", name, modelfile)
    return name


def mdl_speed(path, prompt, generate, depth=0, sequences=1):
    """Tokens a second of reading and of writing, whichever is not 0."""
    out = run(*MDL, "bench", path, "-p", prompt, "-n", generate, "-d", depth, "--sequences", sequences, "-r", 1, "--json")
    return [test["tokens_per_second"]["mean"] for test in json.loads(out)["results"][0]["tests"]]


def rival_speed(rival, path, prompt, generate, depth=0, flash=False):
    flags = list(FLAGS[rival])
    if rival == "llama.cpp":
        flags += ["-fa", "1"] if flash else []
        flags += ["-d", depth] if depth else []
        tests = ["-p", prompt, "-n", generate]
    else:
        # It has no -d: a test of both gives the speed of writing after the prompt.
        tests = ["-p", 0, "-n", 0, "-gp", f"{depth},{generate}"] if depth else ["-p", prompt, "-n", generate]
    out = run(BIN[rival] / "llama-bench", "-m", path, "-t", O.threads, "-r", 1, "-o", "json", *tests, *flags)
    rows = json.loads(out[out.index("["):])
    return [row["avg_ts"] for row in rows]


def rival_batch(rival, path, prompt, generate, sequences):
    tests = ["-c", sequences * (prompt + generate) + 64, "-npp", prompt, "-ntg", generate, "-npl", sequences]
    command = [BIN[rival] / "llama-batched-bench", "-m", path, "-t", O.threads, *tests]
    if rival == "llama.cpp":
        out = run(*command, "--output-format", "jsonl")
        return [json.loads(line)["speed_tg"] for line in out.splitlines() if line.startswith("{")][-1:]
    # It prints a table to its log; the eighth column is the speed of writing. Its flash attention aborts on this.
    out = run(*command, "-rtr", "-fa", "off", stderr=subprocess.STDOUT)
    rows = [line.split("|") for line in out.splitlines() if line.startswith("|")]
    return [float(row[8]) for row in rows if row[1].strip().isdigit()][-1:]


def process(*command):
    """Seconds of a process, and the most memory it had: all of it, and its own, in MB."""
    started = time.perf_counter()
    child = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    peak = {"VmHWM": 0, "RssAnon": 0}
    while child.poll() is None:
        try:
            for line in open(f"/proc/{child.pid}/status"):
                key, _, value = line.partition(":")
                if key in peak:
                    peak[key] = max(peak[key], int(value.split()[0]))
        except (OSError, IndexError):
            pass
        time.sleep(0.001)
    seconds = time.perf_counter() - started
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit code {child.returncode}")
    return seconds, peak["VmHWM"] / 1e3, peak["RssAnon"] / 1e3


def mdl_run(name, tokens, context):
    return [*MDL, "run", "--raw", "--set", "temperature=0", "--set", f"num_predict={tokens}", "--set",
            f"num_ctx={context}", name, PROMPT]


def rival_run(path, tokens, context):
    return [BIN["llama.cpp"] / "llama-completion", "-m", path, "-p", PROMPT, "-n", tokens, "-c", context, "-t",
            O.threads, "--temp", 0, "--ignore-eos", "-no-cnv", "--no-warmup"]


def seconds(*commands):
    started = time.perf_counter()
    for command in commands:
        run(*command)
    return [time.perf_counter() - started]


# A pair is (labels of its rows, unit, {program: a call that returns a figure for each row}).


def speeds(name, source, presets, prompt, generate, depth=0, flash=False):
    """Reading and writing of each preset."""
    for preset in presets:
        path = model(source, preset)
        labels = [f"{name} {preset}, prefill {prompt}"] if prompt else []
        labels += [f"{name} {preset}, decode {generate}" + (f" after {depth}" if depth else "")] if generate else []
        calls = {"mdl": lambda path=path: mdl_speed(path, prompt, generate, depth)}
        for rival in RIVALS:
            calls[rival] = lambda path=path, rival=rival: rival_speed(rival, path, prompt, generate, depth, flash)
        yield labels, "tokens/s", calls


def pairs(group):
    presets, few = O.presets.split(","), [p for p in ("q4_K_M", "q8_0") if p in O.presets.split(",")] or O.presets.split(",")[:1]
    if group == "small":
        yield from speeds("SmolLM2-135M", small(), presets, 512, 128)
    elif group == "large":
        yield from speeds("1.1B", large(), O.large_presets.split(","), 512, 128)
    elif group == "long":
        yield from speeds("SmolLM2-135M", small(), few, 4096, 0, flash=True)
    elif group == "depth":
        yield from speeds("SmolLM2-135M", small(), few, 0, 64, 4096, flash=True)
    elif group == "batch":
        for preset in few:
            path = model(small(), preset)
            calls = {"mdl": lambda path=path: mdl_speed(path, 0, 64, 16, 8)}
            for rival in RIVALS:
                calls[rival] = lambda path=path, rival=rival: rival_batch(rival, path, 16, 64, 8)
            yield [f"SmolLM2-135M {preset}, decode 64 of 8 sequences"], "tokens/s", calls
    elif group == "first":
        for source, preset in [(small(), p) for p in few] + [(large(), O.large_presets.split(",")[0])]:
            path = model(source, preset)
            name = stored(path)
            yield [f"{source.name} {preset}, first token"], "s", {
                "mdl": lambda name=name: process(*mdl_run(name, 1, O.context))[:1],
                "llama.cpp": lambda path=path: process(*rival_run(path, 1, O.context))[:1],
            }
    elif group == "memory":
        for source, preset in [(small(), p) for p in few] + [(large(), O.large_presets.split(",")[0])]:
            path = model(source, preset)
            name = stored(path)
            yield [f"{source.name} {preset}, peak", f"{source.name} {preset}, peak of its own"], "MB", {
                "mdl": lambda name=name: process(*mdl_run(name, 32, O.context))[1:],
                "llama.cpp": lambda path=path: process(*rival_run(path, 32, O.context))[1:],
            }
    elif group == "quantize":
        f16 = model(small(), "f16")
        modelfile = OUT / "f16.Modelfile"
        modelfile.write_text(f"FROM {f16}\n")
        for preset in [p for p in presets if p not in ("f16", "bf16")]:
            made = OUT / "quantized.gguf"
            yield [f"F16 to {preset}"], "s", {
                "mdl": lambda preset=preset: seconds([*MDL, "build", "-q", preset, "--emit", "gguf", "-o", made, modelfile]),
                "llama.cpp": lambda preset=preset: seconds(
                    [BIN["llama.cpp"] / "llama-quantize", f16, made, preset.upper(), O.threads]),
            }
    elif group == "convert":
        made, between = OUT / "converted.gguf", OUT / "between.gguf"
        convert = next(O.dir.glob("sdist/llama_cpp_python-*/vendor/llama.cpp/convert_hf_to_gguf.py"), None)
        yield ["Safetensors BF16 to q4_K_M"], "s", {
            "mdl": lambda: seconds([*MDL, "build", "-q", "q4_K_M", "--emit", "gguf", "-o", made, small()]),
            "llama.cpp": lambda: seconds(
                [O.python, convert, small(), "--outtype", "bf16", "--outfile", between],
                [BIN["llama.cpp"] / "llama-quantize", between, made, "Q4_K_M", O.threads]),
        }


def there(program):
    return program == "mdl" or (BIN[program] / "llama-bench").exists()


def measure(group, rows):
    for labels, unit, calls in pairs(group):
        calls = {program: call for program, call in calls.items() if there(program)}
        samples = {program: [[] for _ in labels] for program in calls}
        for _ in range(O.rounds):
            for program in list(calls):
                try:
                    for kept, figure in zip(samples[program], calls[program](), strict=True):
                        kept.append(figure)
                except (RuntimeError, ValueError, KeyError, OSError) as e:
                    if program == "mdl":
                        raise
                    print(f"{labels[0]}: {program} is left out: {e}", file=sys.stderr)
                    del calls[program], samples[program]
        for i, label in enumerate(labels):
            rows.append({"group": group, "test": label, "unit": unit,
                         "samples": {program: found[i] for program, found in samples.items()}})
            show = {p: round(statistics.median(s), 3) for p, s in rows[-1]["samples"].items()}
            print(f"{label} ({unit}): {show}", file=sys.stderr, flush=True)


def table(rows):
    programs = ["mdl"] + [rival for rival in RIVALS if any(rival in row["samples"] for row in rows)]
    yield ["test", "unit", *programs, *(f"mdl to {rival}" for rival in programs[1:])]
    for row in rows:
        medians = {program: statistics.median(s) for program, s in row["samples"].items() if s}
        if len(medians) < 2:
            continue
        ratios = []
        for rival in programs[1:]:
            ratio = medians["mdl"] / medians[rival] if rival in medians else None
            if ratio is not None and row["unit"] != "tokens/s":
                ratio = 1 / ratio
            ratios.append("" if ratio is None else f"{ratio:.2f}")
        digits = 3 if row["unit"] == "s" else 1
        figures = [f"{medians[p]:.{digits}f}" if p in medians else "" for p in programs]
        yield [row["test"], row["unit"], *figures, *ratios]


def main():
    rows = []
    for group in O.groups:
        measure(group, rows)
    about = json.loads(run(*MDL, "bench", model(small(), O.presets.split(",")[0]), "-p", 1, "-n", 0, "-r", 1, "--json"))
    versions = {"mdl": about["version"]}
    for rival, package in zip(RIVALS, ("llama_cpp_python", "ik_llama_cpp_python")):
        found = sorted(p.name for p in O.dir.glob(f"sdist/{package}-*") if p.is_dir())
        if there(rival):
            versions[rival] = found[-1] if found else "of unknown version"
    document = {"cpu": about["cpu"], "threads": O.threads, "rounds": O.rounds, "versions": versions, "rows": rows}
    target = O.json or OUT / "speed.json"
    target.write_text(json.dumps(document, indent=1) + "\n")

    cpu = about["cpu"]
    named = ", ".join(f"{program} {version}" for program, version in versions.items())
    print(f"{cpu['name']} ({' '.join(cpu['features'])}; mdl uses {cpu['level']}), {O.threads} threads, "
          f"medians of {O.rounds} rounds; {named}\n")
    lines = list(table(rows))
    if O.markdown:
        lines.insert(1, ["---"] * len(lines[0]))
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    else:
        widths = [max(map(len, column)) for column in zip(*lines)]
        for line in lines:
            left = f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}"
            print(left, *(f"{cell:>{width}}" for cell, width in zip(line[2:], widths[2:])), sep="  ")


if __name__ == "__main__":
    main()
