#!/usr/bin/env python3
"""Writes every folder beside this file: a tiny random checkpoint of each model family and what it must compute.

    python make.py [--llama-cpp DIR] [NAME ...]

With --llama-cpp (a source tree of llama.cpp), also what its converter makes of each checkpoint. See README.md.
"""

import argparse
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402
import transformers  # noqa: E402

from generator import conversion  # noqa: E402
from generator.consolidated import CONSOLIDATED  # noqa: E402
from generator.decoders import DECODERS  # noqa: E402
from generator.encoders import ENCODERS  # noqa: E402

ALL = DECODERS | CONSOLIDATED | ENCODERS


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--llama-cpp", type=pathlib.Path, help="llama.cpp's source tree; without it the listings of GGUF files are kept as they are")
    arguments.add_argument("--keep-gguf", type=pathlib.Path, help="a folder to leave the converted GGUF files in")
    arguments.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments.add_argument("names", nargs="*", help="the families to write; all of them if none is named")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    unknown = set(options.names) - set(ALL)
    if unknown:
        raise SystemExit(f"no such family: {', '.join(sorted(unknown))}")
    for name in options.names or ALL:
        folder = options.out / name
        kept = {p.name: p.read_bytes() for p in folder.glob("gguf*")} if folder.is_dir() else {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case = ALL[name]
        case.name = name
        case.write(folder)
        if options.llama_cpp:
            conversion.convert(folder, case, options.llama_cpp, options.keep_gguf)
        else:
            for file, content in kept.items():
                (folder / file).write_bytes(content)
        print(f"{name}: {sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()):,} bytes", flush=True)


if __name__ == "__main__":
    main()
