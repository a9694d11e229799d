"""Weights of a case, drawn and stored, and what the stored values compute in float32."""

import base64
import hashlib
import json
import pathlib
import random
import tempfile

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
POSITIONS = [0, 31, 63]
STEPS = 32
MARGIN = 1e-2


def draw(case, name, shape, gain):
    """A tensor that depends on the case's and its own name alone. Every value is a bfloat16 that float16 holds too."""
    seed = int.from_bytes(hashlib.sha256(f"{case}/{name}".encode()).digest()[:7], "little")
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    last = name.split(".")[-1]
    is_norm = len(shape) == 1 and last == "weight"
    if is_norm:
        value = gain["final" if name.endswith(("model.norm.weight", "model.final_norm.weight")) or name == "norm.weight" else "norm"] + 0.25 * noise
    elif len(shape) == 1:
        value = 0.2 * noise
    elif "embed" in name or name in ("lm_head.weight", "language_model.lm_head.weight", "output.weight"):
        value = gain["embedding" if "embed" in name else "head"] * noise
    else:
        fan_in = 1
        for n in shape[1:]:
            fan_in *= n
        value = gain["matrix"] * fan_in**-0.5 * noise
    value = torch.where(value.abs() < 1e-3, torch.zeros(()), value)
    return value.to(torch.bfloat16).to(torch.float32)


def saved_shapes(model):
    """Names and shapes as `save_pretrained` writes them: some models hold their tensors in another form than their files do."""
    shapes = {}
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        for file in sorted(pathlib.Path(scratch).glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
    return shapes


def draw_all(case, shapes, gain):
    return {name: draw(case, name, shape, gain) for name, shape in sorted(shapes.items())}


def store(path, tensors, dtype, shards=1):
    """Safetensors in the layout of a published checkpoint: one file, or shards and their index."""
    tensors = {n: (t.to(DTYPES[dtype]) if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
    if shards == 1:
        write_tensors(path / "model.safetensors", tensors)
        return
    names = sorted(tensors)
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in tensors.values())}, "weight_map": {}}
    for i in range(shards):
        part = names[i * len(names) // shards:(i + 1) * len(names) // shards]
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        write_tensors(path / file, {n: tensors[n] for n in part})
        index["weight_map"] |= {n: file for n in part}
    write_json(path / "model.safetensors.index.json", index)


def write_tensors(path, tensors):
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)


def write_json(path, value):
    """Arrays of numbers on one line, the rest indented: files that people read and that diff well."""
    path.write_text(pretty(value) + "\n", encoding="utf-8")


def pretty(value, indent=0):
    inner, outer = " " * (indent + 1), " " * indent
    if isinstance(value, dict) and value:
        flat = json.dumps(value, ensure_ascii=False)
        if len(flat) < 240 and not any(isinstance(v, dict) or isinstance(v, list) and any(isinstance(e, (dict, list)) for e in v) for v in value.values()):
            return flat
        return "{\n" + ",\n".join(f"{inner}{json.dumps(k, ensure_ascii=False)}: {pretty(v, indent + 1)}" for k, v in value.items()) + f"\n{outer}}}"
    if isinstance(value, list) and value and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(inner + pretty(v, indent + 1) for v in value) + f"\n{outer}]"
    return json.dumps(value, ensure_ascii=False)


def encode(tensor):
    """base64 of little-endian float32."""
    return base64.b64encode(tensor.to(torch.float32).contiguous().numpy().astype("<f4").tobytes()).decode()


def load(path, cls, config=None):
    """The stored model in float32. Every parameter must come from the file, and every tensor of the file be used."""
    model, told = getattr(transformers, cls).from_pretrained(path, config=config, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    unused = {name for name in told["unexpected_keys"] if not name.endswith("position_ids")}
    assert not told["missing_keys"] and not told["mismatched_keys"] and not unused, f"{path.name}: {told}"
    return model.eval()


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def prompt(case, seed, length, first, vocabulary):
    """Random token ids: `first`, if any, then ordinary tokens, some spans of them repeated so that attention has something to find."""
    source = random.Random(f"{case}/{seed}")
    ids = list(first) + [source.randrange(*vocabulary) for _ in range(length - len(first))]
    for _ in range(2):
        a, b = source.randrange(1, length // 2), source.randrange(length // 2, length - 4)
        ids[b:b + 4] = ids[a:a + 4]
    return ids


def greedy(model, ids, seen=None):
    """The continuation by the largest logit, or None where two logits are too close for another order of summation to agree."""
    ids, found = list(ids), []
    for _ in range(STEPS):
        top = logits(model, ids)[-1].topk(2)
        if top.values[0] - top.values[1] <= MARGIN:
            return None
        found.append(int(top.indices[0]))
        ids.append(found[-1])
    return found


def generate(model, case, length, first, vocabulary):
    """A prompt and its results. Seeds are tried in order until the greedy path is unambiguous and not one token over and over."""
    for seed in range(1000):
        ids = prompt(case, seed, length, first, vocabulary)
        path = greedy(model, ids)
        if path is None or len(set(path)) < 10:
            continue
        out = logits(model, ids)
        positions = [p for p in POSITIONS if p < length] + ([length - 1] if length - 1 not in POSITIONS else [])
        return {
            "prompt": ids, "positions": positions, "shape": [len(positions), out.shape[1]], "logits": encode(out[positions]),
            "argmax": out.argmax(-1).tolist(), "greedy": path, "spread": round(float(out.std()), 3),
        }
    raise SystemExit(f"{case}: no prompt with an unambiguous continuation")
