#!/usr/bin/env python3
"""The `gguf` package as a second opinion (pip install gguf).

  check_gguf.py read FILE    prints the key-values and tensors of FILE as JSON
  check_gguf.py write FILE   writes a small file, and prints what is in it in the same form

A tensor's shape is printed outermost dimension first; its checksum is the sum of byte i times i + 1.
"""
import json
import sys

import gguf
import numpy as np


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def read(path):
    reader = gguf.GGUFReader(path)
    metadata = {
        key: {"type": [t.name for t in field.types], "value": plain(field.contents())}
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
    tensors = []
    for tensor in reader.tensors:
        data = np.frombuffer(np.ascontiguousarray(tensor.data).tobytes(), np.uint8).astype(np.uint64)
        tensors.append(
            {
                "name": tensor.name,
                "shape": [int(d) for d in reversed(tensor.shape)],
                "type": tensor.tensor_type.name,
                "offset": int(tensor.data_offset),
                "bytes": int(tensor.n_bytes),
                "checksum": int((data * np.arange(1, len(data) + 1, dtype=np.uint64)).sum()),
            }
        )
    return {"alignment": reader.alignment, "metadata": metadata, "tensors": tensors}


def write(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -100)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -30000)
    writer.add_uint32("llama.block_count", 2)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("big", 2**64 - 1)
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e300)
    writer.add_bool("flag", True)
    writer.add_string("string", "Ωmega 😀")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "▁x"])
    writer.add_array("bools", [True, False])
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("matrix", rows)
    writer.add_tensor("half", np.arange(8, dtype=np.float16).reshape(2, 2, 2))
    blocks = gguf.quants.quantize(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read(path)


def main():
    actions = {"read": read, "write": write}
    if len(sys.argv) != 3 or sys.argv[1] not in actions:
        sys.exit(__doc__)
    json.dump(actions[sys.argv[1]](sys.argv[2]), sys.stdout)


if __name__ == "__main__":
    main()
