"""Makes the files beside this script, with PyTorch and safetensors themselves.

    python testdata/sources/make.py

Needs torch and safetensors. What PyTorch computes from a file stands beside it as float32 in a
Safetensors file `NAME.expected.safetensors`, and must come out of our readers to the bit.
"""

import json
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
    # These hold addresses and ids, so they come out otherwise every time.
    if not (HERE / "legacy.bin").exists():
        torch.save({"f32": state["f32"]}, HERE / "legacy.bin", _use_new_zipfile_serialization=False)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), HERE / "script.pt")
    torch.save({"strided": base[:, :3]}, HERE / "strided.bin")
    torch.save({"expanded": base[:1].expand(4, 8)}, HERE / "expanded.bin")
    torch.save({"optimizer": {"step": torch.tensor(1)}}, HERE / "nested.bin")
    torch.save(module, HERE / "whole.bin")


HIDDEN, LENGTH, HEADS, KV_HEADS, VOCABULARY, BLOCKS = 40, 72, 4, 2, 272, 1
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": HIDDEN, "intermediate_size": LENGTH, "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "vocab_size": VOCABULARY, "tie_word_embeddings": False,
    "bos_token_id": 256, "eos_token_id": 257,
}


def folder(name):
    path = HERE / "llama" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def tokenizer():
    """The bytes and two special tokens: fewer tokens than the vocabulary has rows."""
    whole = json.loads((HERE.parent / "storyteller" / "tokenizer.json").read_text())
    vocabulary = sorted(whole["model"]["vocab"].items(), key=lambda item: item[1])[:256]
    whole["model"]["vocab"] = {token: i for i, (token, _) in enumerate(vocabulary)}
    whole["model"]["merges"] = []
    whole["added_tokens"] = [{**whole["added_tokens"][i], "id": 256 + i} for i in range(2)]
    whole["post_processor"] = whole["post_processor"]["processors"][0]
    (folder("") / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False))


def model():
    """A Llama of random weights: BF16, but for the norms, which are F32."""
    generator = torch.Generator().manual_seed(2)

    def weights(*shape):
        return (torch.randn(*shape, generator=generator) * 0.05).bfloat16()

    head = HIDDEN // HEADS
    tensors = {"model.embed_tokens.weight": weights(VOCABULARY, HIDDEN), "lm_head.weight": weights(VOCABULARY, HIDDEN),
               "model.norm.weight": (1 + weights(HIDDEN)).float()}
    for i in range(BLOCKS):
        block = f"model.layers.{i}."
        tensors |= {
            block + "input_layernorm.weight": (1 + weights(HIDDEN)).float(),
            block + "post_attention_layernorm.weight": (1 + weights(HIDDEN)).float(),
            block + "self_attn.q_proj.weight": weights(HIDDEN, HIDDEN),
            block + "self_attn.k_proj.weight": weights(head * KV_HEADS, HIDDEN),
            block + "self_attn.v_proj.weight": weights(head * KV_HEADS, HIDDEN),
            block + "self_attn.o_proj.weight": weights(HIDDEN, HIDDEN),
            block + "mlp.gate_proj.weight": weights(LENGTH, HIDDEN),
            block + "mlp.up_proj.weight": weights(LENGTH, HIDDEN),
            block + "mlp.down_proj.weight": weights(HIDDEN, LENGTH),
            # A buffer that older files have, and that holds no weights.
            block + "self_attn.rotary_emb.inv_freq": 10000 ** (-torch.arange(0, head, 2).double() / head),
        }
    return tensors


def fp8(name, tensors, block, quantization, scale_name):
    """Matrices of the blocks as FP8, with one scale for each block of this size (0 is all of it)."""
    stored, values = {}, {}
    for key, tensor in tensors.items():
        values[key] = tensor
        stored[key] = tensor
        if "_proj" not in key:
            continue
        rows, cols = block[0] or tensor.shape[0], block[1] or tensor.shape[1]
        parts = [[part for part in band.split(cols, 1)] for band in tensor.float().split(rows, 0)]
        scales = torch.tensor([[part.abs().max() / 448 for part in band] for band in parts])
        whole = scales.repeat_interleave(rows, 0)[: tensor.shape[0]].repeat_interleave(cols, 1)[:, : tensor.shape[1]]
        stored[key] = (tensor.float() / whole).to(torch.float8_e4m3fn)
        values[key] = (stored[key].float() * whole).bfloat16()
        if block[0] != 1 and block[1] == 0:
            scales = scales.reshape(())
        stored[key + scale_name] = scales
        stored[key.removesuffix("weight") + "input_scale"] = torch.tensor(0.5)
    save_file(stored, folder(name) / "model.safetensors")
    (folder(name) / "config.json").write_text(json.dumps({**CONFIG, "quantization_config": quantization}))
    save_file({k: v for k, v in values.items() if "_proj" in k}, folder(name) / "expected.safetensors")


def interleaved(tensor, heads):
    """Rows of each head in pairs, as Mistral and Meta store them."""
    rows, cols = tensor.shape
    return tensor.view(heads, 2, rows // heads // 2, cols).transpose(1, 2).reshape(rows, cols).contiguous()


def consolidated(tensors):
    names = {"embed_tokens": "tok_embeddings", "lm_head": "output", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attention.wq",
             "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
             "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3"}
    own = {}
    for key, tensor in tensors.items():
        if "rotary" in key:
            continue
        heads = HEADS if "q_proj" in key else KV_HEADS if "k_proj" in key else 0
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        own[key.removeprefix("model.")] = interleaved(tensor, heads) if heads else tensor
    save_file(own, folder("mistral") / "consolidated.safetensors")
    params = {"dim": HIDDEN, "n_layers": BLOCKS, "head_dim": HIDDEN // HEADS, "hidden_dim": LENGTH, "n_heads": HEADS,
              "n_kv_heads": KV_HEADS, "norm_eps": 1e-05, "vocab_size": VOCABULARY, "max_seq_len": 64}
    (folder("mistral") / "params.json").write_text(json.dumps(params))
    own["rope.freqs"] = tensors["model.layers.0.self_attn.rotary_emb.inv_freq"].float()
    torch.save(own, folder("meta") / "consolidated.00.pth")


def llamas():
    tensors = model()
    tokenizer()
    (folder("") / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors, folder("plain") / "model.safetensors")
    mixed = dict(tensors)
    for key in tensors:
        # Wider types hold the same values.
        if "q_proj" in key or "input_layernorm" in key:
            mixed[key] = tensors[key].double()
        if "embed" in key or "up_proj" in key:
            mixed[key] = tensors[key].float()
        if "post_attention" in key:
            mixed[key] = tensors[key].bfloat16()
    save_file(mixed, folder("mixed") / "model.safetensors")
    names = sorted(tensors)
    files = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    parts = [names[: len(names) // 2], names[len(names) // 2 :]]
    for file, part in zip(files, parts):
        # Half of the matrices as transposed views: the bytes are those of columns.
        state = {k: tensors[k].t().contiguous().t() if "mlp" in k else tensors[k] for k in part}
        torch.save(state, folder("torch") / file)
    index = {"metadata": {}, "weight_map": {k: file for file, part in zip(files, parts) for k in part}}
    (folder("torch") / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    fp8("fp8-block", tensors, (16, 16), config, "_scale_inv")
    group = {"weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}}
    config = {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"group_0": group}}
    fp8("fp8-channel", tensors, (1, 0), config, "_scale")
    fp8("fp8-tensor", tensors, (0, 0), {"quant_method": "modelopt", "quant_algo": "FP8"}, "_scale")
    consolidated(tensors)


def mxfp4():
    """Experts as gpt-oss stores them, and their values as its own code in Transformers makes them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    generator = torch.Generator().manual_seed(3)
    blocks = torch.randint(0, 256, (2, 6, 3, 16), dtype=torch.uint8, generator=generator)
    scales = torch.randint(100, 140, (2, 6, 3), dtype=torch.uint8, generator=generator)
    stem = "model.layers.0.mlp.experts.gate_up_proj"
    save_file({stem + "_blocks": blocks, stem + "_scales": scales}, HERE / "mxfp4.safetensors")
    values = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    # Transformers keeps such a matrix transposed.
    expected("mxfp4", {stem + "_blocks": values.transpose(1, 2)})


if __name__ == "__main__":
    torch.manual_seed(0)
    states()
    llamas()
    mxfp4()
    for file in HERE.rglob("*"):
        if file.is_file():
            os.chmod(file, 0o644)
    print(sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file()), "bytes")
