#!/usr/bin/env python3
"""Compiles the kernels: checks them, and makes what the binary carries.

NVRTC makes PTX of every .cu (for compute capabilities 8.0 and 9.0; warnings are errors), ptxas makes machine code of it. What
registers, shared memory and spills each kernel takes is compared with registers.txt; a kernel that spills is an error
unless SPILLS has a reason. Both compilers come from the wheels of requirements.txt; neither needs a GPU.

    python3 -m venv /tmp/cuda && /tmp/cuda/bin/pip install -r kernels/cuda/requirements.txt
    /tmp/cuda/bin/python kernels/cuda/build.py             # check
    /tmp/cuda/bin/python kernels/cuda/build.py --write     # renew registers.txt
    /tmp/cuda/bin/python kernels/cuda/build.py --out DIR   # DIR/NAME.compute_XX.ptx and DIR/NAME.sm_XX.cubin
"""

import argparse
import ctypes
import gzip
import hashlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SNAPSHOT = HERE / "registers.txt"
# What PTX is made for: from 9.0 on, a kernel begins before the one before it has ended. And what machine code is made
# for, of which PTX: all of these are carried, the checked ones are looked at.
CAPABILITIES = [80, 90]
CARRIED = {"sm_80": 80, "sm_86": 80, "sm_89": 80, "sm_90": 90}
CHECKED = ["sm_80", "sm_90"]
# Kernels that may spill, as patterns, each with the reason and the bytes of loads and stores it is good for.
SPILLS = {
    "matmul_q2_k": ("four numbers for each 16 values of a row and a column: a rare format", 640),
    r"matmul_(q\d_\w|iq4_\w\w)": ("sums of the whole, touched once in 256 columns: smaller tiles cost more", 256),
    r"attention_\w+_[48]": ("a few words of places, used between the loops: half the blocks cost more", 96),
    r"(matvec|gated|matmul)_\w+_(1|4|32)": ("a few words of places: half the blocks cost more", 64),
}


def package(name):
    """The directory of an NVIDIA wheel."""
    spec = importlib.util.find_spec(f"nvidia.{name}")
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"nvidia.{name} is not installed: pip install -r {HERE / 'requirements.txt'}")
    return Path(next(iter(spec.submodule_search_locations)))


class Nvrtc:
    """NVRTC by its C interface."""

    def __init__(self):
        directory = package("cuda_nvrtc") / "lib"
        # It opens the library of its own headers by name.
        ctypes.CDLL(str(next(directory.glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(directory.glob("libnvrtc.so.*"))))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        return None if code == 0 else self.library.nvrtcGetErrorString(code).decode()

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, text)
        return text.value.decode()

    def ptx(self, source, capability):
        """The PTX of a file; exits with the compiler's words if it has any."""
        program = ctypes.c_void_p()
        error = self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(),
                          0, None, None)
        if error:
            sys.exit(error)
        options = [f"--gpu-architecture=compute_{capability}", "--fmad=false", "--std=c++17",
                   f"--include-path={HERE}", "--device-as-default-execution-space"]
        options = [o.encode() for o in options]
        error = self.call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self.text(program, "ProgramLog").strip()
        if error or "warning" in log:
            sys.exit(f"{source.name}: {error or 'warnings are errors'}\n{log}")
        ptx = self.text(program, "PTX")
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return ptx


def assemble(ptx, architecture, cubin):
    """Machine code of a PTX file; what ptxas says of each kernel, by name."""
    ptxas = package("cuda_nvcc") / "bin" / "ptxas"
    if not os.access(ptxas, os.X_OK):
        ptxas.chmod(0o755)
    done = subprocess.run([ptxas, "-v", f"-arch={architecture}", "-o", cubin, ptx], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"ptxas, {ptx.name}, {architecture}:\n{done.stderr}")
    kernels, name = {}, None
    for line in done.stderr.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            name = found[1]
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            kernels[name] = {"stack": int(found[1]), "spill": int(found[2]) + int(found[3])}
        elif found := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            kernels[name] |= {"registers": int(found[1]), "shared": int(shared[1]) if shared else 0}
        elif "warning" in line:
            sys.exit(f"ptxas, {ptx.name}, {architecture}: {line}")
    return kernels


def report(found):
    """registers.txt: a line for each kernel."""
    lines = [
        "# Registers of a thread, static shared memory, stack and spills of each kernel (bytes), for "
        + " and ".join(CHECKED) + ".",
        "# Made by build.py --write.",
        f"{'kernel':36} " + " ".join(f"{a:>24}" for a in CHECKED),
    ]
    for name in sorted(found):
        cells = [found[name][a] for a in CHECKED]
        text = [f"{c['registers']:>5} {c['shared']:>7} {c['stack']:>5} {c['spill']:>4}" for c in cells]
        lines.append(f"{name:36} " + " ".join(f"{t:>24}" for t in text))
    return "\n".join(lines) + "\n"


def sources():
    """What the kernels are made of, as a SHA-256: kernels.tar.gz says it, and a test compares."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("*.cu*")):
        text = path.read_bytes()
        digest.update(f"{path.name} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def archive(images, to):
    """Writes images (name and bytes) with an index of kernels and their modules: the same bytes each time."""
    kernels = {(name.decode(), file.split(".")[0]) for file, image in images.items() if file.endswith(".ptx")
               for name in re.findall(rb"\.entry\s+(\w+)", image)}
    index = f"sources {sources()}\n" + "".join(f"{kernel} {module}\n" for kernel, module in sorted(kernels))
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [("index", index.encode()), *sorted(images.items())]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    to.write_bytes(gzip.compress(raw.getvalue(), 9, mtime=0))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="renew registers.txt")
    arguments.add_argument("--out", type=Path, help="where PTX and machine code go")
    arguments.add_argument("--archive", type=Path, nargs="?", const=HERE / "kernels.tar.gz", metavar="FILE",
                           help="what the binary carries: PTX for what is oldest, and with --out all there is")
    arguments.add_argument("--only", default="*", help="the files, as a pattern; registers.txt is not compared")
    arguments = arguments.parse_args()
    nvrtc, found = Nvrtc(), {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        out = arguments.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        jobs = []
        for source in sorted(HERE.glob(f"{arguments.only}.cu")):
            for capability in CAPABILITIES:
                ptx = out / f"{source.stem}.compute_{capability}.ptx"
                ptx.write_text(nvrtc.ptx(source, capability))
                for architecture in CARRIED if arguments.out else CHECKED:
                    if CARRIED[architecture] == capability:
                        cubin = out / f"{source.stem}.{architecture}.cubin"
                        jobs.append((architecture, pool.submit(assemble, ptx, architecture, cubin)))
        for architecture, job in jobs:
            for name, kernel in job.result().items():
                found.setdefault(name, {})[architecture] = kernel
        files = [p for p in out.iterdir() if arguments.out or p.name.endswith(f".compute_{CAPABILITIES[0]}.ptx")]
        images = {p.name: p.read_bytes() for p in files}
    allowed = {name: max([most for pattern, (_, most) in SPILLS.items() if re.fullmatch(pattern, name)], default=0)
               for name in found}
    spills = [f"{name} spills on {a}: {k['spill']} bytes, stack {k['stack']}" for name, by in sorted(found.items())
              for a, k in by.items() if k["spill"] > allowed[name] or (k["stack"] and not k["spill"])]
    text = report(found)
    if arguments.only != "*":
        print(text)
    elif arguments.write:
        SNAPSHOT.write_text(text)
    elif SNAPSHOT.read_text() != text:
        (Path(tempfile.gettempdir()) / "registers.txt").write_text(text)
        subprocess.run(["diff", "-u", SNAPSHOT, Path(tempfile.gettempdir()) / "registers.txt"])
        sys.exit("registers.txt is not what the compilers say; look at the difference, then build.py --write")
    if spills:
        sys.exit("\n".join(spills))
    if arguments.archive:
        archive(images, arguments.archive)
    print(f"{len(found)} kernels")


if __name__ == "__main__":
    main()
