"""What llama.cpp's converter makes of a checkpoint, as a listing: every metadata value, and a hash of every tensor's bytes."""

import hashlib
import pathlib
import struct
import subprocess
import sys
import tempfile

from .checkpoint import write_json

# Runs the converter with the name of the pre-tokenizer given, which it otherwise looks up by a hash of a published vocabulary.
DRIVER = """
import runpy, sys
tree, pre, published = sys.argv[1:4]
sys.path.insert(0, tree + "/gguf-py"); sys.path.insert(0, tree)
import conversion.base as base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
if published == "True":
    base.AutoConfig = None
sys.argv = [tree + "/convert_hf_to_gguf.py"] + sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
KINDS = {0: "u8", 1: "i8", 2: "u16", 3: "i16", 4: "u32", 5: "i32", 6: "f32", 7: "bool", 8: "string", 9: "array", 10: "u64", 11: "i64", 12: "f64"}
TYPES = {0: ("F32", 4), 1: ("F16", 2), 30: ("BF16", 2)}


def convert(folder, case, tree, keep):
    """Writes `gguf.json`, or `gguf-refused.txt` with the converter's reason."""
    listing = {}
    for kind in ("f16", "f32"):
        with tempfile.TemporaryDirectory() as scratch:
            target = (keep or pathlib.Path(scratch)) / f"{folder.name}-{kind}.gguf"
            target.parent.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-c", DRIVER, str(tree), case.pre, str(case.published_config), str(folder), "--outfile", str(target), "--outtype", kind, *case.converter]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode != 0 or not target.is_file():
                lines = [line for line in result.stderr.strip().splitlines() if line and "|" not in line and "File " not in line]
                if keep:
                    (keep / f"{folder.name}-{kind}.log").write_text(result.stderr)
                reason = (lines[-1] if lines else f"status {result.returncode}").replace(str(folder) + "/", "")
                (folder / "gguf-refused.txt").write_text(f"{reason}\n" + (f"\n{case.refusal}\n" if case.refusal else ""))
                return
            listing[kind] = read(target.read_bytes())
    f16, f32 = listing["f16"], listing["f32"]
    differing = {k: v for k, v in f32["metadata"].items() if f16["metadata"].get(k) != v}
    assert list(f16["metadata"]) == list(f32["metadata"]), "both types have the same keys"
    write_json(folder / "gguf.json", {
        "f16": f16,
        "f32": {"metadata_differing": differing, "tensors": f32["tensors"]},
    })


class Cursor:
    def __init__(self, data):
        self.data, self.at = data, 0

    def unpack(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def raw(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def string(self):
        return self.raw(self.unpack("Q")).decode("utf-8")

    def value(self, kind):
        return self.string() if kind == 8 else self.unpack(SCALARS[kind])


def read(data):
    """Keys in file order. An array is its type, its length and a hash of its elements as the file holds them."""
    cursor = Cursor(data)
    assert cursor.raw(4) == b"GGUF" and cursor.unpack("I") == 3
    count, keys = cursor.unpack("Q"), cursor.unpack("Q")
    metadata = {}
    alignment = 32
    for _ in range(keys):
        name, kind = cursor.string(), cursor.unpack("I")
        if kind == 9:
            element, length = cursor.unpack("I"), cursor.unpack("Q")
            start = cursor.at
            values = [cursor.value(element) for _ in range(length)]
            entry = {"type": f"array of {KINDS[element]}", "length": length, "sha256": hashlib.sha256(data[start:cursor.at]).hexdigest()}
            if length <= 16:
                entry["values"] = values
        else:
            entry = {"type": KINDS[kind], "value": cursor.value(kind)}
        metadata[name] = entry
        if name == "general.alignment":
            alignment = entry["value"]
    tensors = []
    for _ in range(count):
        name = cursor.string()
        shape = [cursor.unpack("Q") for _ in range(cursor.unpack("I"))]
        tensors.append((name, shape, *TYPES[cursor.unpack("I")], cursor.unpack("Q")))
    start = -(-cursor.at // alignment) * alignment
    listed = []
    for name, shape, kind, size, offset in tensors:
        for n in shape:
            size *= n
        content = data[start + offset:start + offset + size]
        assert len(content) == size
        # One line each: the shape as GGUF has it, the contiguous dimension first.
        listed.append({"name": name, "type": kind, "shape": shape, "sha256": hashlib.sha256(content).hexdigest()})
    return {"metadata": metadata, "tensors": listed}
