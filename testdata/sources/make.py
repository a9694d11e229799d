"""Makes the files beside this script, with PyTorch and safetensors themselves.

    python testdata/sources/make.py

Needs torch and safetensors. What PyTorch computes from a file stands beside it as float32 in a
Safetensors file `NAME.expected.safetensors`, and must come out of our readers to the bit.
"""

import os
import pathlib

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent


def expected(name, tensors):
    """What the tensors of a source are, as float32."""
    values = {k: v.detach().to(torch.float32).clone().contiguous() for k, v in tensors.items()}
    save_file(values, HERE / f"{name}.expected.safetensors")


def states():
    """A state dict with what is found in real ones: types, parameters, shared storages, views."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 8, generator=generator)
    state = {
        "f32": base[:4],
        "later rows": base[4:],
        "transposed": base.t(),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "half": torch.randn(2, 2, 2, generator=generator).half(),
        "bfloat16": torch.randn(5, 1, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "e4m3": torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn),
        "e5m2": torch.randn(4, 4, generator=generator).to(torch.float8_e5m2),
        "scalar": torch.tensor(0.5),
        "column": base[:, :1].clone(),
    }
    state["tied"] = state["f32"]
    extras = {"bytes": torch.arange(4, dtype=torch.uint8), "flags": torch.tensor([True, False]),
              "count": torch.tensor(7), "wide": torch.tensor([1], dtype=torch.uint32)}
    torch.save({**state, **extras, "epoch": 3, "note": "text", "rate": 0.5, "none": None}, HERE / "state.pt")
    for protocol in (3, 4, 5):
        torch.save({**state, **extras}, HERE / f"state-protocol{protocol}.pt", pickle_protocol=protocol)
    expected("state", state)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    for parameter in module.parameters():
        parameter.data.fill_(0.25)
    torch.save(module.state_dict(), HERE / "module.bin")
    torch.save({"f32": state["f32"]}, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"strided": base[:, :3]}, HERE / "strided.bin")
    torch.save({"expanded": base[:1].expand(4, 8)}, HERE / "expanded.bin")
    torch.save({"optimizer": {"step": torch.tensor(1)}}, HERE / "nested.bin")
    torch.save(module, HERE / "whole.bin")
    linear = torch.nn.Linear(2, 2)
    linear.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    torch.jit.save(torch.jit.script(linear), HERE / "script.pt")


if __name__ == "__main__":
    torch.manual_seed(0)
    states()
    for file in HERE.iterdir():
        os.chmod(file, 0o644)
    print(sum(f.stat().st_size for f in HERE.iterdir()), "bytes")
