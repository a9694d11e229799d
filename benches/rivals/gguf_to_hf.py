#!/usr/bin/env python3
"""Write a llama-architecture GGUF back out as a Hugging Face model directory.

    python gguf_to_hf.py MODEL.gguf OUT [--dtype f16|f32|bf16] [--shards N]    (needs gguf, safetensors, numpy)


Writes config.json, generation_config.json, tokenizer.json, tokenizer_config.json and
model.safetensors (or N shards with model.safetensors.index.json). Quantized weights are
dequantized, so the weights are the package's own values, rounded once to --dtype.
"""
import argparse, json, os, struct
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

NAMES = {  # GGUF tensor name -> Hugging Face tensor name, per block
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}

def unpermute(w, heads):
    """Undo the interleaving that GGUF's llama q/k weights carry: [heads, dim/2, 2] -> [heads, 2, dim/2]."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

def bf16(a):
    u = a.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)

def save(path, tensors, dtype):
    tag = {"f16": "F16", "f32": "F32", "bf16": "BF16"}[dtype]
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, a in sorted(tensors.items()):
        raw = (bf16(a) if dtype == "bf16" else a.astype({"f16": np.float16, "f32": np.float32}[dtype])).tobytes()
        header[name] = {"dtype": tag, "shape": list(a.shape), "data_offsets": [at, at + len(raw)]}
        blobs.append(raw); at += len(raw)
    text = json.dumps(header).encode(); text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text))); f.write(text)
        for b in blobs: f.write(b)
    return at

ap = argparse.ArgumentParser()
ap.add_argument("gguf"); ap.add_argument("out")
ap.add_argument("--dtype", default="bf16", choices=["f16", "f32", "bf16"]); ap.add_argument("--shards", type=int, default=1)
o = ap.parse_args()
r = GGUFReader(o.gguf)
kv = {k: f.contents() for k, f in r.fields.items()}
arch = kv["general.architecture"]
assert arch == "llama", f"only llama-architecture files, not {arch}"
heads, kv_heads = kv["llama.attention.head_count"], kv["llama.attention.head_count_kv"]
os.makedirs(o.out, exist_ok=True)

tensors = {}
for t in r.tensors:
    w = dequantize(t.data, t.tensor_type).reshape(list(reversed([int(x) for x in t.shape]))).astype(np.float32)
    if t.name == "token_embd.weight": n = "model.embed_tokens.weight"
    elif t.name == "output_norm.weight": n = "model.norm.weight"
    elif t.name == "output.weight": n = "lm_head.weight"
    else:
        _, i, part, leaf = t.name.split(".")
        if part == "attn_q": w = unpermute(w, heads)
        if part == "attn_k": w = unpermute(w, kv_heads)
        n = f"model.layers.{i}.{NAMES[part]}.{leaf}"
    tensors[n] = w

names = sorted(tensors)
if o.shards == 1:
    save(os.path.join(o.out, "model.safetensors"), tensors, o.dtype)
else:
    index, total = {}, 0
    for s in range(o.shards):
        part = {n: tensors[n] for n in names[s::o.shards]}
        file = f"model-{s+1:05}-of-{o.shards:05}.safetensors"
        total += save(os.path.join(o.out, file), part, o.dtype)
        index.update({n: file for n in part})
    json.dump({"metadata": {"total_size": total}, "weight_map": index}, open(os.path.join(o.out, "model.safetensors.index.json"), "w"), indent=1)

eos, bos = kv["tokenizer.ggml.eos_token_id"], kv["tokenizer.ggml.bos_token_id"]
config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": {"f16": "float16", "f32": "float32", "bf16": "bfloat16"}[o.dtype],
    "vocab_size": kv.get("llama.vocab_size", len(kv["tokenizer.ggml.tokens"])), "hidden_size": kv["llama.embedding_length"], "intermediate_size": kv["llama.feed_forward_length"],
    "num_hidden_layers": kv["llama.block_count"], "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": kv["llama.context_length"],
    "rope_theta": kv["llama.rope.freq_base"], "rms_norm_eps": round(float(kv["llama.attention.layer_norm_rms_epsilon"]), 10),
    "tie_word_embeddings": "lm_head.weight" not in tensors, "bos_token_id": bos, "eos_token_id": eos, "attention_bias": False, "mlp_bias": False,
}
json.dump(config, open(os.path.join(o.out, "config.json"), "w"), indent=1)
json.dump({"bos_token_id": bos, "eos_token_id": eos}, open(os.path.join(o.out, "generation_config.json"), "w"), indent=1)

tokens, types = kv["tokenizer.ggml.tokens"], kv["tokenizer.ggml.token_type"]
assert kv["tokenizer.ggml.model"] == "gpt2", "only byte-level BPE vocabularies"
added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": types[i] == 3} for i, t in enumerate(tokens) if types[i] in (3, 4)]
tokenizer = {
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
    "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
              "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [m.split(" ", 1) for m in kv["tokenizer.ggml.merges"]]},
}
json.dump(tokenizer, open(os.path.join(o.out, "tokenizer.json"), "w"), ensure_ascii=False)
json.dump({"tokenizer_class": "GPT2Tokenizer", "bos_token": tokens[bos], "eos_token": tokens[eos], "unk_token": tokens[0], "pad_token": tokens[eos],
           "model_max_length": kv["llama.context_length"], "clean_up_tokenization_spaces": False, "chat_template": kv.get("tokenizer.chat_template")},
          open(os.path.join(o.out, "tokenizer_config.json"), "w"), ensure_ascii=False, indent=1)
print(f"{len(tensors)} tensors -> {o.out}")
